"""A client: trains and evaluates as ever. One line makes what it answers secret."""

from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from digits import task
from fedsec.integrations.flower import secure_aggregation_mod

app = ClientApp(mods=[secure_aggregation_mod])


def here(message, context):
    """The model of the message, and this client's own records."""
    net = task.model()
    net.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return net, *task.data(int(context.node_config["partition-id"]), context.run_config["clients"])


@app.train()
def train(message, context):
    """The model in, the trained model out."""
    said, (net, x, y) = context.run_config, here(message, context)
    task.train(net, x, y, said["learning-rate"], said["local-epochs"])
    content = {"arrays": ArrayRecord(net.state_dict()), "metrics": MetricRecord({"num-examples": len(y)})}
    return Message(RecordDict(content), reply_to=message)


@app.evaluate()
def evaluate(message, context):
    """The model in, how good it is on this client's own records out."""
    net, x, y = here(message, context)
    metrics = {"num-examples": len(y), "accuracy": task.accuracy(net, x, y)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
