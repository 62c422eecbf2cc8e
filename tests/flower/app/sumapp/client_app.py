"""Client i adds i + 1 to every weight, with i + 1 examples; one may wait, in the middle of training."""

import threading
from pathlib import Path

from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsec.integrations.flower import secure_aggregation_mod

app = ClientApp(mods=[secure_aggregation_mod])


@app.train()
def train(message, context):
    number = int(context.node_config["partition-id"]) + 1
    if "trap" in context.node_config:
        with Path(str(context.node_config["trap"])).open("wb", buffering=0) as trap:
            trap.write(b"training")
            threading.Event().wait(600)  # the test kills this process long before
    assert "fedsec" not in message.content, "the app sees its own records alone"
    arrays = message.content["arrays"]
    moved = {name: array.numpy() + number for name, array in arrays.items() if name != "steps"}
    record = ArrayRecord({name: Array(value) for name, value in moved.items()} | {"steps": arrays["steps"]})
    metrics = MetricRecord({"num-examples": number, "number": number, "secret-loss": 12345.678})
    return Message(RecordDict({"arrays": record, "metrics": metrics}), reply_to=message)


@app.evaluate()
def evaluate(message, context):
    number = int(context.node_config["partition-id"]) + 1
    metrics = MetricRecord({"num-examples": number, "number": number})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)
