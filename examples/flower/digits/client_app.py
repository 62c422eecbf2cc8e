"""A client: trains as ever. One line makes its updates secret."""

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits import task
from fedsec.integrations.flower import secure_aggregation_mod

app = ClientApp(mods=[secure_aggregation_mod])  # without fedsec: ClientApp()


@app.train()
def train(message, context):
    """The model in, the trained model out."""
    net, said = task.model(), context.run_config
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    x, y = task.data(int(context.node_config["partition-id"]), said["clients"])
    task.train(net, x, y, said["learning-rate"], said["local-epochs"])
    content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": len(y)})}
    return Message(RecordDict(content), reply_to=message)
