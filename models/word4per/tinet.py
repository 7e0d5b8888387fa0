"""TINet: the feature of an image becomes a pseudo-word, in the place of a word's embedding."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F


class TINet(nn.Module):
    """Linear, dropout, ReLU for each hidden layer, then a linear layer (paper; released code).

    Args:
        input_size: of an image's feature, as it is before normalisation.
        hidden_sizes: of the layers between.
        output_size: of a word's embedding.
        dropout: probability.
    """

    def __init__(self, input_size: int, hidden_sizes: Sequence[int], output_size: int, dropout: float = 0.1):
        super().__init__()
        sizes = [input_size, *hidden_sizes]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in pairwise(sizes))
        self.projection = nn.Linear(sizes[-1], output_size)
        self.dropout = dropout

    def forward(self, image_features: Tensor) -> Tensor:
        """Pseudo-words: `(num_images, output_size)`.

        Args:
            image_features: `(num_images, input_size)`, projected, not normalised.
        """
        states = image_features
        for layer in self.layers:
            states = F.relu(F.dropout(layer(states), self.dropout, self.training))
        return self.projection(states)
