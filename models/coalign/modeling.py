"""CoAlign on BLIP-2's vision tower and Q-Former, which it shares with FAFA."""

from torch import Tensor

from ...gathering_fafa import TripletStates
from ...losses_fafa import masked_predictor
from ...modeling_towers_fafa import TowersModel
from ...retriever import CardFacts
from .configuration import LOSS_SETTINGS, CoAlignConfig
from .losses import CITATION, PAPER, CoAlignLosses, CoAlignOutput


class CoAlignModel(CoAlignLosses, TowersModel):
    """Composed image retrieval: queries of an image and a caption, or either alone, against target images.

    A query becomes one vector, a target image `num_query_tokens` vectors, all of unit length in one space; their score
    is the largest dot product. What is ours in it: see `losses.py`.

    Example:
        >>> import torch
        >>> from fafa.models.coalign import CoAlignConfig, CoAlignModel
        >>> model = CoAlignModel(CoAlignConfig.tiny(vocab_size=100)).eval()
        >>> pixels, ids = torch.randn(3, 3, 96, 96), torch.randint(100, (2, 12))
        >>> queries = model.get_query_features(pixel_values=pixels[:2], input_ids=ids)
        >>> model.score(queries, model.get_target_features(pixel_values=pixels)).shape
        torch.Size([2, 3])
    """

    config: CoAlignConfig
    config_class = CoAlignConfig
    base_model_prefix = "coalign"
    output_class = CoAlignOutput
    settings_of_losses = TowersModel.settings_of_losses | LOSS_SETTINGS
    weights_of_losses = TowersModel.weights_of_losses | {"lcr_predictor"}
    lora_trained_whole = (*TowersModel.lora_trained_whole, "lcr_predictor")

    def __init__(self, config: CoAlignConfig):
        super().__init__(config)
        self.lcr_predictor = masked_predictor(config.qformer_config.hidden_size, config.lcr_hidden_size)
        self.post_init()
        if config.freeze_vision:
            self.freeze_vision_tower()

    def embed(self, states: TripletStates) -> tuple[Tensor, Tensor, Tensor | None]:
        """By the two projections of BLIP-2."""
        return (
            self._project(self.text_projection, states.query),
            self._project(self.vision_projection, states.target),
            None if states.caption is None else self._project(self.text_projection, states.caption),
        )

    @classmethod
    def card_facts(cls, config: CoAlignConfig) -> CardFacts:
        """The paper's, and the sizes of the two towers."""
        return CardFacts("CoAlign", PAPER, config.sizes(), CITATION, ("coalign",))


__all__ = ["CoAlignModel"]
