"""Small models around every kind of layer, with records of the shapes that they take."""

import torch
from torch import nn


class Tied(nn.Module):
    """An embedding whose weight is the last layer's, too."""

    def __init__(self, vocabulary, size):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, size)
        self.hidden = nn.Linear(size, size)
        self.head = nn.Linear(size, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, x):
        return self.head(torch.tanh(self.hidden(self.embedding(x))))


class Shared(nn.Module):
    """One layer used several times."""

    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, size)

    def forward(self, x):
        for _ in range(3):
            x = torch.tanh(self.layer(x))
        return x


class Raw(nn.Module):
    """Parameters of the model's own, in every way that people use them."""

    def __init__(self, positions, size):
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, size))
        self.positions = nn.Parameter(torch.randn(1, positions + 3, size))
        self.scale = nn.Parameter(torch.randn(size))
        self.matrix = nn.Parameter(torch.randn(size, 4))
        self.temperature = nn.Parameter(torch.tensor(0.7))

    def forward(self, x):
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1)
        x = x + self.positions[:, : x.shape[1]]
        return torch.tanh(x * self.scale) @ self.matrix / self.temperature


class Positions(nn.Module):
    """Embeddings of positions, which hold no record, as GPT-2 has them; and its Conv1D."""

    def __init__(self, vocabulary, positions, size):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, size), nn.Embedding(positions, size)
        self.weight, self.bias = nn.Parameter(torch.randn(size, 5)), nn.Parameter(torch.randn(5))

    def forward(self, x):
        x = self.tokens(x) + self.places(torch.arange(x.shape[1]))
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], 5)


class Recurrent(nn.Module):
    def __init__(self, kind, size, hidden, **options):
        super().__init__()
        self.recurrent = getattr(nn, kind)(size, hidden, **options)

    def forward(self, x):
        first = self.recurrent.batch_first
        out, _ = self.recurrent(x if first else x.transpose(0, 1))
        return out if first else out.transpose(0, 1)


class Attention(nn.Module):
    def __init__(self, size, heads, *, cross=False, weights=False, **options):
        super().__init__()
        self.attention = nn.MultiheadAttention(size, heads, **options)
        self.cross, self.weights = cross, weights

    def forward(self, x):
        if not self.attention.batch_first:
            x = x.transpose(0, 1)
        other = torch.flip(x, [-1]) if self.cross else x
        out, attention = self.attention(x, other, other, need_weights=self.weights)
        if self.weights:
            out = out * attention.std()  # of one record alone only where there is one
        return out if self.attention.batch_first else out.transpose(0, 1)


class Normed(nn.Module):
    """A weight norm: the weight is computed from parameters."""

    def __init__(self, size):
        super().__init__()
        self.layer = nn.utils.parametrizations.weight_norm(nn.Linear(size, 4))

    def forward(self, x):
        return self.layer(x)


class Penalised(nn.Module):
    """Something computed from weights alone that every record's output holds."""

    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, 3)

    def forward(self, x):
        return self.layer(x) + (self.layer.weight**2).sum() + self.layer.weight.T.mean(dim=0)


def words(vocabulary, *shape):
    return torch.randint(0, vocabulary, shape)


def loss(output, _targets=None):
    """One number a record, with every output in it and no symmetry."""
    flat = output.flatten(1)
    return (flat.sin() * torch.linspace(0.5, 1.5, flat.shape[1], dtype=flat.dtype)).sum(dim=1) * 2


CASES = {
    "linear": lambda: (nn.Linear(5, 3), (5,)),
    "linear, three leading dimensions": lambda: (nn.Linear(5, 3), (2, 3, 5)),
    "linear without bias": lambda: (nn.Linear(40, 30, bias=False), (40,)),
    "linear, ghost norms": lambda: (nn.Linear(40, 30), (2, 40)),
    "two linear": lambda: (nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3)), (5,)),
    "bilinear product by vmap": lambda: (nn.Sequential(nn.Linear(4, 6), nn.PReLU(6)), (4,)),
    "conv1d": lambda: (nn.Conv1d(3, 4, 3, padding=1), (3, 9)),
    "conv1d, many channels": lambda: (nn.Conv1d(9, 4, 3, stride=2), (9, 9)),
    "conv1d, circular": lambda: (nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular"), (3, 9)),
    "conv2d": lambda: (nn.Conv2d(3, 4, 3), (3, 7, 6)),
    "conv2d, many channels": lambda: (nn.Conv2d(8, 5, (3, 2), padding=(1, 0)), (8, 6, 7)),
    "conv2d, stride and dilation": lambda: (
        nn.Conv2d(3, 4, 3, stride=(2, 1), dilation=2, padding=2),
        (3, 7, 8),
    ),
    "conv2d, same": lambda: (nn.Conv2d(3, 4, (4, 3), padding="same"), (3, 7, 6)),
    "conv2d, groups": lambda: (nn.Conv2d(4, 6, 3, groups=2, padding=1), (4, 6, 6)),
    "conv2d, depthwise": lambda: (nn.Conv2d(4, 8, 3, groups=4), (4, 6, 6)),
    "conv2d, ghost norms": lambda: (nn.Conv2d(12, 24, 3), (12, 4, 4)),
    "conv3d by vmap": lambda: (nn.Conv3d(2, 3, 2), (2, 4, 4, 4)),
    "conv_transpose2d by vmap": lambda: (nn.ConvTranspose2d(2, 3, 2), (2, 4, 4)),
    "small convnet": lambda: (
        nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 5)),
        (1, 8, 8),
    ),
    "embedding": lambda: (nn.Embedding(11, 4, padding_idx=2), ("words", 11, 6)),
    "embedding, small vocabulary": lambda: (nn.Embedding(3, 4), ("words", 3, 6)),
    "embedding, twice": lambda: (Tied(13, 6), ("words", 13, 5)),
    "layer norm": lambda: (nn.LayerNorm((3, 4)), (2, 3, 4)),
    "rms norm": lambda: (nn.RMSNorm(4), (3, 4)),
    "group norm": lambda: (nn.GroupNorm(2, 4), (4, 3, 3)),
    "instance norm by vmap": lambda: (nn.InstanceNorm2d(3, affine=True), (3, 4, 4)),
    "raw parameters": lambda: (Raw(4, 6), (4, 6)),
    "positions and addmm": lambda: (Positions(9, 7, 6), ("words", 9, 5)),
    "shared layer": lambda: (Shared(5), (5,)),
    "weight norm": lambda: (Normed(6), (3, 6)),
    "penalty within": lambda: (Penalised(4), (4,)),
    "rnn": lambda: (Recurrent("RNN", 3, 4, nonlinearity="relu", batch_first=True), (5, 3)),
    "rnn, tanh": lambda: (Recurrent("RNN", 3, 4), (5, 3)),
    "gru": lambda: (Recurrent("GRU", 3, 4, num_layers=2, bidirectional=True, batch_first=True), (5, 3)),
    "lstm": lambda: (Recurrent("LSTM", 3, 4, num_layers=2), (5, 3)),
    "lstm, projected": lambda: (Recurrent("LSTM", 3, 4, proj_size=2, bidirectional=True, bias=False), (5, 3)),
    "attention": lambda: (Attention(8, 2, batch_first=True), (5, 8)),
    "attention, positions first": lambda: (Attention(8, 2), (5, 8)),
    "attention, cross": lambda: (Attention(8, 2, cross=True, bias=False), (5, 8)),
    "attention, cross, other sizes": lambda: (Attention(8, 2, cross=True, kdim=8, vdim=8), (5, 8)),
    "transformer encoder": lambda: (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True), 2),
        (5, 8),
    ),
}


def make(case, rows, seed=0, dtype=torch.float32):
    """A model, and inputs of `rows` records."""
    torch.manual_seed(seed)
    model, shape = CASES[case]()
    model = model.to(dtype)
    inputs = (
        words(shape[1], rows, *shape[2:]) if shape[0] == "words" else torch.randn(rows, *shape, dtype=dtype)
    )
    return model, inputs
