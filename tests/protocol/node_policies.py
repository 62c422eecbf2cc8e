"""Another table [policy] in a node's folder."""

from fedsec.integrations.policy import NodePolicy


def insist(folder, **policy):
    """From now on this node's owner insists on that."""
    path = folder / "node.toml"
    top = path.read_text("utf-8").partition("[policy]")[0]
    path.write_text(f"{top}[policy]\n{NodePolicy(**policy).to_toml()}", "utf-8")
