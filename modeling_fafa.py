"""FAFA: composed person retrieval on BLIP-2's vision tower and Q-Former (arXiv 2311.16515)."""

import contextlib
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel, initialization
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel, Blip2TextEmbeddings, Blip2VisionModel
from transformers.utils import ModelOutput

from .configuration_fafa import FafaConfig
from .gathering_fafa import gather_rows, share_random_state
from .scoring_fafa import topk_mean_similarity
from .weights_fafa import beside_adapter, refuse_incomplete, refuse_options, refuse_unsound_weights

LABEL_EPSILON = 1e-8  # released code: added to the label distribution before its logarithm
UNCERTAINTY_EPSILON = 1e-6  # released code: added to variances in distribution uncertainty


@dataclass
class FafaOutput(ModelOutput):
    """What `FafaModel.forward` returns; fields that were not asked for are None.

    Args:
        loss: scalar, the weighted sum of the terms below.
        loss_fda: scalar, fine-grained dynamic alignment.
        loss_fd: scalar, feature diversity, before its weight.
        loss_mfr: scalar, masked feature reasoning, before its weight.
        loss_itc: scalar, caption-to-image contrastive term, before its weight; only with captions.
        logits: `(batch_size, batch_size)`, scores of query i and target j over the temperature, fp32.
        query_embeds: `(batch_size, projection_dim)`, unit length.
        target_embeds: `(batch_size, num_query_tokens, projection_dim)`, each token of unit length.
    """

    loss: Tensor | None = None
    loss_fda: Tensor | None = None
    loss_fd: Tensor | None = None
    loss_mfr: Tensor | None = None
    loss_itc: Tensor | None = None
    logits: Tensor | None = None
    query_embeds: Tensor | None = None
    target_embeds: Tensor | None = None


class TripletStates(NamedTuple):
    """Q-Former states of a batch of triplets before projection: all that the losses are computed from.

    Args:
        query: `(batch_size, qformer_hidden_size)`, the [CLS] state of reference image and relative caption.
        target: `(batch_size, num_query_tokens, qformer_hidden_size)`.
        caption: `(batch_size, qformer_hidden_size)`, the [CLS] state of the whole captions; None without them.
    """

    query: Tensor
    target: Tensor
    caption: Tensor | None = None


def group_labels(group_ids: Tensor, alpha: float) -> Tensor:
    """Label distribution of a batch: 1 for the own target, α for others of its group, rows summing to one (paper, FDA).

    Args:
        group_ids: `(batch_size,)`, equal for triplets of one group (`cpr_id`).
        alpha: 1.0 treats a whole group as correct, as the released code does.

    Returns:
        `(batch_size, batch_size)`, fp32.
    """
    same_group = (group_ids[:, None] == group_ids[None, :]).float()
    own = torch.eye(len(group_ids), device=group_ids.device)
    labels = alpha * same_group + (1.0 - alpha) * own
    return labels / labels.sum(dim=1, keepdim=True)


def alignment_loss(logits: Tensor, labels: Tensor, divergence: str = "reverse") -> Tensor:
    """Divergence between softmax(logits) and labels, over rows and over columns, averaged (paper, FDA).

    Args:
        logits: `(batch_size, batch_size)`, scores over temperature.
        labels: `(batch_size, batch_size)`, symmetric up to row normalisation, rows summing to one.
        divergence: `"reverse"`, KL(softmax ‖ labels), the paper's; `"forward"`, KL(labels ‖ softmax).
    """
    return (_divergence(logits, labels, divergence) + _divergence(logits.mT, labels, divergence)) / 2


def _divergence(logits: Tensor, labels: Tensor, divergence: str) -> Tensor:
    log_predictions = logits.log_softmax(dim=1)
    log_labels = (labels + LABEL_EPSILON).log()
    if divergence == "reverse":
        return (log_predictions.exp() * (log_predictions - log_labels)).sum(dim=1).mean()
    return (labels * (log_labels - log_predictions)).sum(dim=1).mean()


def feature_diversity_loss(
    target_embeds: Tensor,
    margin: float = 0.5,
    scope: str = "batch",
    sample_size: int | None = None,
    max_elements: int = 2**26,
) -> Tensor:
    """Mean hinge on the cosine similarity of target tokens above a margin (paper, FD).

    More than `max_elements` similarities are computed block by block, for the gradient once more, so that memory stays
    that of one block, however large the batch.

    Args:
        target_embeds: `(batch_size, num_tokens, dim)`.
        margin: similarity up to which a pair costs nothing.
        scope: `"batch"` compares all tokens of the batch (released code), `"image"` those of each image.
        sample_size: for `"batch"`, draw at most so many tokens at random (released code: 1024).
        max_elements: similarities in a block, for `"batch"`; by default all those of 256 triplets of 32 tokens.
    """
    tokens = F.normalize(target_embeds.float(), dim=-1)
    if scope == "batch":
        tokens = tokens.flatten(0, 1)
        if sample_size is not None and len(tokens) > sample_size:
            tokens = tokens[torch.randperm(len(tokens), device=tokens.device)[:sample_size]]
        if len(tokens) ** 2 > max_elements:
            num_rows = max(1, max_elements // len(tokens))
            sums = [
                checkpoint(
                    _sum_of_hinges, tokens, first, num_rows, margin, use_reentrant=False, preserve_rng_state=False
                )
                for first in range(0, len(tokens), num_rows)
            ]
            return torch.stack(sums).sum() / len(tokens) ** 2
    return _hinges(tokens, tokens, torch.arange(tokens.shape[-2], device=tokens.device), margin).mean()


def _sum_of_hinges(tokens: Tensor, first: int, num_rows: int, margin: float) -> Tensor:
    rows = torch.arange(first, min(first + num_rows, len(tokens)), device=tokens.device)
    return _hinges(tokens[first : first + num_rows], tokens, rows, margin).sum()


def _hinges(some: Tensor, tokens: Tensor, rows: Tensor, margin: float) -> Tensor:
    """(..., num_some, num_tokens); `rows` are the places of `some` among the tokens."""
    with torch.autocast(tokens.device.type, enabled=False):  # it would turn this product into half precision
        similarities = some @ tokens.mT
    # A token is no neighbour of itself; the mean still counts the diagonal, as in the released code.
    itself = rows[:, None] == torch.arange(tokens.shape[-2], device=tokens.device)
    return (similarities.masked_fill(itself, -1.0) - margin).clamp(min=0.0)


def masked_feature_reasoning_loss(
    query_states: Tensor, target_states: Tensor, predictor: nn.Module, query_mask: Tensor, target_mask: Tensor
) -> Tensor:
    """Predict masked entries of one state from the rest of it and the other state whole (paper, MFR).

    Args:
        query_states: `(batch_size, hidden_size)`, the query's [CLS] state before projection.
        target_states: `(batch_size, hidden_size)`, the mean of the target's token states before projection.
        predictor: maps `(batch_size, 2 * hidden_size)` = [masked ; whole] to `(batch_size, hidden_size)`.
        query_mask: `(batch_size, hidden_size)`, 1 where an entry is masked; likewise `target_mask`.

    Returns:
        scalar: squared error over the masked entries, mean of both directions.
    """
    from_target = _masked_error(query_states, target_states, predictor, query_mask)
    from_query = _masked_error(target_states, query_states, predictor, target_mask)
    return (from_target + from_query) / 2


def _masked_error(masked: Tensor, whole: Tensor, predictor: nn.Module, mask: Tensor) -> Tensor:
    visible = masked * (1.0 - mask).to(masked.dtype)  # a model in half precision stays in it
    prediction = predictor(torch.cat([visible, whole], dim=-1)).float()
    return ((prediction - masked.float()).square() * mask).sum() / mask.sum().clamp(min=1.0)


def distribution_uncertainty(states: Tensor, mean_noise: Tensor, std_noise: Tensor) -> Tensor:
    """Re-sample the batch statistics of each token position (released code; not in the paper).

    Args:
        states: `(batch_size, num_tokens, hidden_size)`, at least two images.
        mean_noise: `(num_tokens, hidden_size)`, standard normal; likewise `std_noise`.

    Returns:
        `(batch_size, num_tokens, hidden_size)`.
    """
    mean = states.mean(dim=0)
    std = (states.var(dim=0) + UNCERTAINTY_EPSILON).sqrt()
    spread_of_mean = (mean.var(dim=0, keepdim=True) + UNCERTAINTY_EPSILON).sqrt()
    spread_of_std = (std.var(dim=0, keepdim=True) + UNCERTAINTY_EPSILON).sqrt()
    return (states - mean) / std * (std + std_noise * spread_of_std) + mean + mean_noise * spread_of_mean


class FafaPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of FAFA models."""

    config: FafaConfig
    config_class = FafaConfig
    base_model_prefix = "fafa"
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a mean over a batch of pairs: Trainer must not rescale it
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["Blip2EncoderLayer", "Blip2QFormerLayer", "Blip2TextEmbeddings", "Blip2VisionEmbeddings"]

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path,
        *model_args,
        allow_missing=None,
        allow_unexpected=None,
        output_loading_info=False,
        **kwargs,
    ):
        """Loads a model as transformers does, but refuses one of which weights are missing, foreign or unsound.

        Args:
            pretrained_model_name_or_path: a folder, or a repository of the Hub; of a model or of an adapter (LoRA).
            allow_missing: names or patterns (`"mfr_predictor.*"`) of weights that may be missing and begin anew, or
                True. `ignore_mismatched_sizes=True` allows those of another shape.
            allow_unexpected: names or patterns of weights that may be left over, or True.
            output_loading_info: return a pair of the model and what transformers tells of the loading.
            kwargs: all other options of `PreTrainedModel.from_pretrained`.

        Raises:
            UnsoundModelError: weights are missing, foreign, not finite, or integers; a ValueError.
            TypeError: an option cannot be honoured.
        """
        refuse_options(pretrained_model_name_or_path, kwargs)
        source = beside_adapter(pretrained_model_name_or_path, kwargs)
        model, info = super().from_pretrained(source, *model_args, output_loading_info=True, **kwargs)
        own = model.__dict__.pop("_loading_info", None)  # of a model with an adapter, `info` is the adapter's
        missing, unexpected = set(info["missing_keys"]), set(info["unexpected_keys"])
        if own is not None:
            missing, unexpected = missing | own.missing_keys, unexpected | own.unexpected_keys
        name = pretrained_model_name_or_path or "the state dict"
        refuse_incomplete(name, missing, unexpected, allow_missing, allow_unexpected)
        refuse_unsound_weights(name, model)
        return (model, info) if output_loading_info else model

    def _adjust_missing_and_unexpected_keys(self, loading_info):
        super()._adjust_missing_and_unexpected_keys(loading_info)
        self._loading_info = loading_info

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, FafaModel):
            initialization.normal_(module.query_tokens, std=self.config.qformer_config.initializer_range)
            initialization.constant_(module.temperature, self.config.temperature_init)
        elif isinstance(module, Blip2TextEmbeddings):
            # A buffer that no checkpoint holds: loading, too, takes it from here.
            initialization.copy_(module.position_ids, torch.arange(module.position_ids.shape[-1]).expand(1, -1))


class FafaModel(FafaPreTrainedModel):
    """Composed person retrieval: queries of an image and a caption, or either alone, against target images.

    A query becomes one vector, a target image `num_query_tokens` vectors, all of unit length in one space; their score
    is the mean of the k largest dot products.

    Example:
        >>> import torch
        >>> from fafa import FafaConfig, FafaModel
        >>> model = FafaModel(FafaConfig.tiny(vocab_size=100)).eval()
        >>> pixels, ids = torch.randn(3, 3, 96, 96), torch.randint(100, (2, 12))
        >>> queries = model.get_query_features(pixel_values=pixels[:2], input_ids=ids)
        >>> targets = model.get_target_features(pixel_values=pixels)
        >>> model.score(queries, targets).shape
        torch.Size([2, 3])
    """

    def __init__(self, config: FafaConfig):
        config.validate()  # once more: settings given to `from_pretrained` change it after it was made
        super().__init__(config)
        qformer_size = config.qformer_config.hidden_size
        self.vision_model = Blip2VisionModel._from_config(config.vision_config)
        self.vision_model.post_layernorm.eps = config.vision_norm_eps
        self.query_tokens = nn.Parameter(torch.zeros(1, config.num_query_tokens, qformer_size))
        self.embeddings = Blip2TextEmbeddings(config.qformer_config)
        self.qformer = Blip2QFormerModel._from_config(config.qformer_config)
        self.vision_projection = nn.Linear(qformer_size, config.projection_dim)
        self.text_projection = nn.Linear(qformer_size, config.projection_dim)
        self.temperature = nn.Parameter(torch.tensor(float(config.temperature_init)))
        self.mfr_predictor = nn.Sequential(
            nn.Linear(2 * qformer_size, config.mfr_hidden_size),
            nn.ReLU(),
            nn.Linear(config.mfr_hidden_size, qformer_size),
        )
        self.post_init()
        if config.freeze_vision:
            self.freeze_vision_tower()

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of captions."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the word embeddings of captions."""
        self.embeddings.word_embeddings = value

    @property
    def _vision_tower(self) -> list[nn.Module]:
        # Without the LayerNorm behind it, which belongs to the trained side.
        return [self.vision_model.embeddings, self.vision_model.encoder]

    def freeze_vision_tower(self, dtype: torch.dtype | None = None) -> "FafaModel":
        """Stops training of the vision tower (not of the LayerNorm after it); `dtype` also stores it in half precision.

        The tower then stays in eval mode and runs without a graph.
        """
        self.config.freeze_vision = True
        for module in self._vision_tower:
            module.requires_grad_(False).eval().to(dtype=dtype)
        return self

    def train(self, mode: bool = True) -> "FafaModel":
        """Sets training mode; a frozen vision tower, or its frozen blocks, stay in eval mode."""
        super().train(mode)
        for module in [*self._vision_tower, *self.vision_model.encoder.layers]:
            if not any(parameter.requires_grad for parameter in module.parameters()):
                module.eval()
        return self

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """Images to states of the vision tower, normalised.

        Args:
            pixel_values: `(num_images, 3, image_size, image_size)`.

        Returns:
            `(num_images, num_patches + 1, vision_hidden_size)`.
        """
        if pixel_values.ndim != 4:
            raise ValueError(
                f"expected pixel_values (num_images, 3, height, width), got {tuple(pixel_values.shape)}; "
                "FafaProcessor makes them"
            )
        with torch.no_grad() if self.config.freeze_vision else contextlib.nullcontext():
            states = self.vision_model.embeddings(pixel_values)
            states = self.vision_model.encoder(inputs_embeds=states).last_hidden_state
        norm = self.vision_model.post_layernorm
        return norm(states.to(norm.weight.dtype))

    def _query_states(self, input_ids: Tensor, attention_mask: Tensor | None, image_states: Tensor | None) -> Tensor:
        """[CLS] state of a caption, with or without an image: (batch_size, qformer_hidden_size)."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if image_states is None:
            states = self.qformer(
                query_embeds=self.embeddings(input_ids=input_ids), query_length=0, attention_mask=attention_mask
            ).last_hidden_state  # (batch, text, hidden)
            return states[:, 0]
        query_tokens = self.query_tokens.expand(len(input_ids), -1, -1)
        query_mask = attention_mask.new_ones(query_tokens.shape[:2])
        states = self.qformer(
            query_embeds=self.embeddings(input_ids=input_ids, query_embeds=query_tokens),
            query_length=query_tokens.shape[1],
            attention_mask=torch.cat([query_mask, attention_mask], dim=1),
            encoder_hidden_states=image_states,
        ).last_hidden_state  # (batch, query tokens + text, hidden)
        return states[:, query_tokens.shape[1]]

    def _target_states(self, image_states: Tensor) -> Tensor:
        """States of the query tokens over an image: (num_images, num_query_tokens, qformer_hidden_size)."""
        query_tokens = self.query_tokens.expand(len(image_states), -1, -1)
        return self.qformer(query_embeds=query_tokens, encoder_hidden_states=image_states).last_hidden_state

    def _project(self, projection: nn.Linear, states: Tensor) -> Tensor:
        dtype = projection.weight.dtype
        return F.normalize(projection(states.to(dtype)).float(), dim=-1).to(dtype)

    def get_query_features(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Features of queries: image and caption, caption alone, or image alone.

        With a caption, the feature is the projected [CLS] state of the Q-Former, over the image if there is one. An
        image alone is the mean of its own target tokens, re-normalised: the direction closest to all of them.

        Args:
            pixel_values: `(num_queries, 3, image_size, image_size)`, reference images.
            input_ids: `(num_queries, text_length)`, captions.
            attention_mask: `(num_queries, text_length)`, 0 at padding; None: no padding.

        Returns:
            `(num_queries, projection_dim)`, unit length.

        Raises:
            ValueError: without image and caption, or if their numbers differ.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("a query needs pixel_values, input_ids or both")
        if input_ids is None:
            return F.normalize(self.get_target_features(pixel_values).mean(dim=1), dim=-1)
        if pixel_values is not None and len(pixel_values) != len(input_ids):
            raise ValueError(f"{len(pixel_values)} reference images for {len(input_ids)} captions: one of each a query")
        image_states = None if pixel_values is None else self.encode_images(pixel_values)
        return self._project(self.text_projection, self._query_states(input_ids, attention_mask, image_states))

    def get_target_features(self, pixel_values: Tensor) -> Tensor:
        """Features of target (gallery) images.

        Args:
            pixel_values: `(num_images, 3, image_size, image_size)`.

        Returns:
            `(num_images, num_query_tokens, projection_dim)`, each token of unit length.
        """
        return self._project(self.vision_projection, self._target_states(self.encode_images(pixel_values)))

    def score(self, queries: Tensor, targets: Tensor) -> Tensor:
        """Scores of queries against targets, see `topk_mean_similarity`.

        Args:
            queries: `(num_queries, projection_dim)`.
            targets: `(num_images, num_query_tokens, projection_dim)`.

        Returns:
            `(num_queries, num_images)`, fp32, higher is better.
        """
        return topk_mean_similarity(queries, targets, self.config.num_top_tokens)

    def forward(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        target_pixel_values: Tensor | None = None,
        group_ids: Tensor | None = None,
        caption_input_ids: Tensor | None = None,
        caption_attention_mask: Tensor | None = None,
        return_loss: bool = True,
        return_dict: bool | None = None,
        gather_across_processes: bool = False,
    ) -> FafaOutput | tuple:
        """Query features and, with targets, target features and the training loss.

        Args:
            pixel_values: `(batch_size, 3, image_size, image_size)`, reference images.
            input_ids: `(batch_size, text_length)`, relative captions.
            attention_mask: `(batch_size, text_length)`, 0 at padding.
            target_pixel_values: `(batch_size, 3, image_size, image_size)`.
            group_ids: `(batch_size,)`, equal for triplets of one group (`cpr_id`); None: every pair its own.
            caption_input_ids: `(batch_size, caption_length)`, captions that describe the targets whole, for the
                contrastive term (`itc_weight`).
            caption_attention_mask: `(batch_size, caption_length)`.
            return_loss: False leaves out losses and logits.
            return_dict: False returns a tuple of the fields that are set.
            gather_across_processes: compute the loss of the batches of all processes together, as one process would;
                every process must call with it. The output then holds the embeddings of all of them.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if target_pixel_values is None:
            output = FafaOutput(query_embeds=self.get_query_features(pixel_values, input_ids, attention_mask))
            return output if return_dict else output.to_tuple()
        states = self.triplet_states(
            pixel_values, input_ids, attention_mask, target_pixel_values, caption_input_ids, caption_attention_mask
        )
        if return_loss:
            output = self.losses(states, group_ids, gather_across_processes)
        else:
            output = FafaOutput(
                query_embeds=self._project(self.text_projection, states.query),
                target_embeds=self._project(self.vision_projection, states.target),
            )
        return output if return_dict else output.to_tuple()

    def triplet_states(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        target_pixel_values: Tensor,
        caption_input_ids: Tensor | None = None,
        caption_attention_mask: Tensor | None = None,
    ) -> TripletStates:
        """The first half of `forward`: what the towers make of each triplet by itself. Arguments as there.

        Raises:
            ValueError: without reference images or relative captions.
        """
        if pixel_values is None or input_ids is None:
            raise ValueError("with target_pixel_values, forward composes: it needs pixel_values and input_ids")
        caption = None
        if caption_input_ids is not None and self.config.itc_weight > 0.0:
            caption = self._query_states(caption_input_ids, caption_attention_mask, None)
        return TripletStates(
            query=self._query_states(input_ids, attention_mask, self.encode_images(pixel_values)),
            target=self._target_states(self.encode_images(target_pixel_values)),
            caption=caption,
        )

    def losses(
        self, states: TripletStates, group_ids: Tensor | None = None, gather_across_processes: bool = False
    ) -> FafaOutput:
        """The second half of `forward`: embeddings, logits and losses of a batch, which compare its triplets.

        Args:
            states: of `triplet_states`.
            group_ids: `(batch_size,)`; see `forward`, likewise `gather_across_processes`.
        """
        if gather_across_processes:
            *gathered, group_ids = gather_rows(*states, group_ids)
            states = TripletStates(*gathered)
            share_random_state(states.query.device)
        config, temperature = self.config, self.temperature.float()
        if group_ids is None:
            group_ids = torch.arange(len(states.query), device=states.query.device)
        output = FafaOutput(
            query_embeds=self._project(self.text_projection, states.query),
            target_embeds=self._project(self.vision_projection, self._resample_statistics(states.target)),
        )
        output.logits = self.score(output.query_embeds, output.target_embeds) / temperature
        labels = group_labels(group_ids, config.fda_alpha)
        output.loss_fda = alignment_loss(output.logits, labels, config.fda_divergence)
        output.loss_fd = feature_diversity_loss(
            output.target_embeds, config.fd_margin, config.fd_scope, config.fd_sample_size
        )
        output.loss_mfr = masked_feature_reasoning_loss(
            states.query,
            states.target.mean(dim=1),
            self.mfr_predictor,
            query_mask=self._draw_mask(states.query),
            target_mask=self._draw_mask(states.query),
        )
        output.loss = output.loss_fda + config.fd_weight * output.loss_fd + config.mfr_weight * output.loss_mfr
        if states.caption is not None:
            # Everybody in a group wears what the caption says, so it fits all of them alike.
            caption_embeds = self._project(self.text_projection, states.caption)
            caption_logits = self.score(caption_embeds, output.target_embeds) / temperature
            output.loss_itc = alignment_loss(caption_logits, group_labels(group_ids, 1.0), "forward")
            output.loss = output.loss + config.itc_weight * output.loss_itc
        return output

    def _resample_statistics(self, target_states: Tensor) -> Tensor:
        # Of the states to be projected only: masked feature reasoning sees them as they are (released code).
        probability = self.config.distribution_uncertainty
        if not self.training or probability == 0.0 or len(target_states) < 2:  # one image has no batch statistics
            return target_states
        mean_noise, std_noise = torch.randn(2, *target_states.shape[1:], device=target_states.device)
        # The draw stays a tensor: a branch on it would break the graph of a compiled step.
        chosen = torch.rand((), device=target_states.device) < probability
        return torch.where(chosen, distribution_uncertainty(target_states, mean_noise, std_noise), target_states)

    def _draw_mask(self, states: Tensor) -> Tensor:
        return (torch.rand(states.shape, device=states.device) < self.config.mfr_mask_ratio).float()


__all__ = ["FafaModel", "FafaOutput", "FafaPreTrainedModel"]
