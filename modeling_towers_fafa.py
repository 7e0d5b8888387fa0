"""BLIP-2's two towers as a retriever: what FAFA and CoAlign share, all but their losses."""

import contextlib
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, initialization
from transformers.models.blip_2.modeling_blip_2 import Blip2QFormerModel, Blip2TextEmbeddings, Blip2VisionModel
from transformers.utils import ModelOutput

from .checks_fafa import check_captions, check_images, check_triplets
from .configuration_towers_fafa import TowersConfig
from .gathering_fafa import TripletStates
from .padding_fafa import moved_left
from .recording_fafa import Recording, recorded, recorded_weights, weights_of_patches
from .retriever import Retriever
from .scoring_fafa import topk_mean_similarity


class TowersModel(Retriever, PreTrainedModel):
    """Composed retrieval on BLIP-2's vision tower and Q-Former; a method adds `losses`.

    A query becomes one vector, a target image `num_query_tokens` vectors, all of unit length in one space; their score
    is the mean of the k largest dot products.
    """

    config: TowersConfig
    config_class = TowersConfig
    output_class: ClassVar[type[ModelOutput]]  # of `forward`; its fields have the names of those of `FafaOutput`
    main_input_name = "pixel_values"
    input_modalities = ("image", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    _no_split_modules = ["Blip2EncoderLayer", "Blip2QFormerLayer", "Blip2TextEmbeddings", "Blip2VisionEmbeddings"]

    # These act only in training or initialisation, or in the score, which comes after the features; or they concern the
    # processor, whose own settings and tokenizer are in a manifest.
    settings_of_losses = frozenset(
        {"temperature_init", "itc_weight", "num_top_tokens", "max_text_length", "vocabulary_hash"}
    )
    weights_of_losses = frozenset({"temperature"})
    weights_without_decay = ("temperature", "query_tokens", "class_embedding", "position_embedding")
    lora_targets: ClassVar[Mapping[str, str]] = {
        "qformer": r"qformer\..*\.(query|value)",  # of self- and cross-attention
        "vision": r"vision_model\.encoder\..*\.qkv",  # one layer for query, key and value
    }
    # Layers that are small, or not in BLIP-2's weights. The query tokens are not trained: features depend on this bare
    # parameter, which peft could not switch off with the adapter.
    lora_trained_whole = ("post_layernorm", "vision_projection", "text_projection")
    lora_parameters = ("temperature",)

    def __init__(self, config: TowersConfig):
        config.validate()  # again: settings given to `from_pretrained` change it after it was made
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

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, TowersModel):
            initialization.normal_(module.query_tokens, std=self.config.qformer_config.initializer_range)
            initialization.constant_(module.temperature, self.config.temperature_init)
        elif isinstance(module, Blip2TextEmbeddings):
            # A buffer that no checkpoint holds: loading also takes it from here.
            initialization.copy_(module.position_ids, torch.arange(module.position_ids.shape[-1]).expand(1, -1))

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of captions."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the word embeddings of captions."""
        self.embeddings.word_embeddings = value

    @property
    def vision_blocks(self) -> list[nn.Module]:
        """The embeddings of patches, then each block; not the LayerNorm behind them, which is always trained."""
        return [self.vision_model.embeddings, *self.vision_model.encoder.layers]

    @property
    def feature_shape(self) -> tuple[int, int]:
        """`(num_query_tokens, projection_dim)`."""
        return self.config.num_query_tokens, self.config.projection_dim

    @property
    def image_shape(self) -> tuple[int, int]:
        """A square, in pixels."""
        return self.config.vision_config.image_size, self.config.vision_config.image_size

    @property
    def num_top_tokens(self) -> int:
        """k of the score."""
        return self.config.num_top_tokens

    @property
    def features_dtype(self) -> torch.dtype:
        """The dtype of the features, and of all that is neither the vision tower nor packed by quantisation."""
        return self.query_tokens.dtype  # a layer's weights may be packed, as integers of another shape

    def encode_images(self, pixel_values: Tensor) -> Tensor:
        """The vision tower's states for images, normalised.

        Args:
            pixel_values: `(num_images, 3, image_size, image_size)`.

        Returns:
            `(num_images, num_patches + 1, vision_hidden_size)`.

        Raises:
            ValueError, TypeError: the images are not what this model takes.
        """
        self._check_images("pixel_values", pixel_values)
        with torch.no_grad() if self.config.freeze_vision else contextlib.nullcontext():
            states = self.vision_model.embeddings(pixel_values)
            states = self.vision_model.encoder(inputs_embeds=states).last_hidden_state
        return self.vision_model.post_layernorm(states.to(self.features_dtype))

    def _check_images(self, name: str, pixels: Tensor) -> None:
        check_images(name, pixels, self.image_shape)

    def _check_captions(self, name: str, ids: Tensor, mask: Tensor | None) -> None:
        words, config = self.get_input_embeddings(), self.config.qformer_config
        vocab_size = getattr(words, "num_embeddings", config.vocab_size)
        check_captions(name, ids, mask, vocab_size, config.max_position_embeddings)

    def _query_states(self, input_ids: Tensor, attention_mask: Tensor | None, image_states: Tensor | None) -> Tensor:
        """[CLS] state of a caption, with or without an image: (batch_size, qformer_hidden_size)."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        else:
            input_ids, attention_mask = moved_left(input_ids, attention_mask)
        if image_states is None:
            states = self.qformer(
                query_embeds=self.embeddings(input_ids=input_ids), query_length=0, attention_mask=attention_mask
            ).last_hidden_state  # (batch, text, hidden)
            return states[:, 0]
        query_tokens = self.query_tokens.expand(input_ids.shape[0], -1, -1)
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
        query_tokens = self.query_tokens.expand(image_states.shape[0], -1, -1)
        return self.qformer(query_embeds=query_tokens, encoder_hidden_states=image_states).last_hidden_state

    def _project(self, projection: nn.Linear, states: Tensor) -> Tensor:
        dtype = self.features_dtype
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
            attention_mask: `(num_queries, text_length)`, 0 at padding, on either side; None: no padding.

        Returns:
            `(num_queries, projection_dim)`, unit length.

        Raises:
            ValueError, TypeError: without image and caption, if their numbers differ, or if they are not what this
                model takes.
        """
        if pixel_values is None and input_ids is None:
            raise ValueError("a query needs pixel_values, input_ids or both")
        if input_ids is None:
            return F.normalize(self.get_target_features(pixel_values).mean(dim=1), dim=-1)
        self._check_captions("input_ids", input_ids, attention_mask)
        if pixel_values is not None:
            self._check_images("pixel_values", pixel_values)
            check_triplets(pixel_values, input_ids)
        image_states = None if pixel_values is None else self.encode_images(pixel_values)
        return self._project(self.text_projection, self._query_states(input_ids, attention_mask, image_states))

    def get_target_features(self, pixel_values: Tensor) -> Tensor:
        """Features of target (gallery) images.

        Args:
            pixel_values: `(num_images, 3, image_size, image_size)`.

        Returns:
            `(num_images, num_query_tokens, projection_dim)`, each token of unit length.

        Raises:
            ValueError, TypeError: the images are not what this model takes.
        """
        return self._project(self.vision_projection, self._target_states(self.encode_images(pixel_values)))

    @torch.no_grad()
    def target_attention(self, pixel_values: Tensor) -> Tensor:
        """Cross-attention from each query token to the image's patches, the mean over heads and layers that have it.

        A patch's state also holds what the vision tower took from other patches, so this says where the Q-Former
        looked, not which pixels decided. Of the ways tried with the tiny model, this one told best: when the quarter of
        the image that it marks hottest was painted over, the score fell by 0.37, for the coldest quarter by 0.00, for
        one at random by 0.09. (The last such layer alone: 0.24 and 0.15; rolled out through the vision tower's
        attention: 0.09 and 0.14, no better than chance.)

        Args:
            pixel_values: `(num_images, 3, image_size, image_size)`.

        Returns:
            `(num_images, num_query_tokens, rows, columns)`, fp32.
        """
        side = self.config.vision_config.image_size // self.config.vision_config.patch_size
        layers = [layer for layer in self.qformer.encoder.layer if layer.has_cross_attention]
        with recorded_weights(self.qformer, [layer.crossattention.attention for layer in layers]) as weights:
            self.get_target_features(pixel_values)
        return torch.stack([weights_of_patches(layer, (side, side)) for layer in weights]).mean(dim=0)

    def _scores(self, queries: Tensor, targets: Tensor) -> Tensor:
        # Without a look at values: in a training step it would wait for the device.
        return topk_mean_similarity(queries, targets, self.num_top_tokens)

    @property
    def reads_target_captions(self) -> bool:
        """For the caption-to-image term."""
        return self.config.itc_weight > 0.0

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
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> ModelOutput | tuple:
        """Query features and, with targets, target features and the training loss.

        Args:
            pixel_values: `(batch_size, 3, image_size, image_size)`, reference images.
            input_ids: `(batch_size, text_length)`, relative captions.
            attention_mask: `(batch_size, text_length)`, 0 at padding.
            target_pixel_values: `(batch_size, 3, image_size, image_size)`.
            group_ids: `(batch_size,)`, equal for triplets of one group (`cpr_id`); None: each is its own group.
            caption_input_ids: `(batch_size, caption_length)`, captions that describe the whole targets, for the
                contrastive term (`itc_weight`).
            caption_attention_mask: `(batch_size, caption_length)`.
            return_loss: False leaves out losses and logits.
            return_dict: False returns a tuple of the fields that are set.
            gather_across_processes: compute the loss over the batches of all processes, as one process would; every
                process must call with it. The output then holds the embeddings of all of them.
            output_hidden_states: return the towers' states after each layer, for this process's inputs.
            output_attentions: return attention weights; needs `model.set_attn_implementation("eager")`.

        In eval mode the loss is reproducible: what training samples, the masks of masked feature reasoning and the
        tokens of feature diversity, is then spread evenly, and the random state stays as it is.

        Raises:
            ValueError, TypeError: the inputs do not fit one another or this model.
        """
        return_dict = self.config.return_dict if return_dict is None else return_dict
        with self._recorded(output_hidden_states, output_attentions) as recording:
            if target_pixel_values is None:
                if any(given is not None for given in (group_ids, caption_input_ids, caption_attention_mask)):
                    raise ValueError("group_ids and captions of targets are for the loss: target_pixel_values missing")
                output = self.output_class(
                    query_embeds=self.get_query_features(pixel_values, input_ids, attention_mask)
                )
            else:
                states = self.training_states(
                    pixel_values, input_ids, attention_mask, target_pixel_values, caption_input_ids,
                    caption_attention_mask,
                )  # fmt: skip
                if return_loss:
                    output = self.losses(states, group_ids, gather_across_processes)
                else:
                    output = self.output_class(
                        query_embeds=self._project(self.text_projection, states.query),
                        target_embeds=self._project(self.vision_projection, states.target),
                    )
        num_runs = 1 if target_pixel_values is None else 2  # the last ones; a run over whole captions precedes them
        for kind, runs in {"": recording.qformer, "vision_": recording.vision}.items():
            # There may be fewer: a query without an image never runs the tower.
            for prefix, run in zip(("", "target_"), runs[-num_runs:], strict=False):
                for name, value in run.items():
                    output[f"{prefix}{kind}{name}"] = value
        return output if return_dict else output.to_tuple()

    def _recorded(
        self, hidden_states: bool | None, attentions: bool | None
    ) -> contextlib.AbstractContextManager[Recording]:
        hidden_states = self.config.output_hidden_states if hidden_states is None else hidden_states
        attentions = self.config.output_attentions if attentions is None else attentions
        for name, value in {"output_hidden_states": hidden_states, "output_attentions": attentions}.items():
            if value not in (True, False, None):
                raise ValueError(f"{name} is {value!r}, expected true or false: all layers or none")
        kinds = {part.config._attn_implementation for part in (self.vision_model, self.qformer)}
        if attentions and kinds != {"eager"}:
            raise ValueError(
                f"output_attentions: {' and '.join(sorted(map(str, kinds)))} attention gives no weights; call "
                'model.set_attn_implementation("eager") before'
            )
        return recorded(self.vision_model.encoder, self.qformer.encoder, bool(hidden_states), bool(attentions))

    def training_states(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        target_pixel_values: Tensor,
        caption_input_ids: Tensor | None = None,
        caption_attention_mask: Tensor | None = None,
    ) -> TripletStates:
        """The first half of `forward`: what the towers compute for each triplet by itself. It takes the same arguments.

        Raises:
            ValueError, TypeError: reference images or relative captions are missing, or the inputs do not fit one
                another or this model.
        """
        if pixel_values is None or input_ids is None:
            raise ValueError("with target_pixel_values, forward composes: it needs pixel_values and input_ids")
        self._check_images("pixel_values", pixel_values)
        self._check_images("target_pixel_values", target_pixel_values)
        self._check_captions("input_ids", input_ids, attention_mask)
        if caption_input_ids is not None:
            self._check_captions("caption_input_ids", caption_input_ids, caption_attention_mask)
        check_triplets(pixel_values, input_ids, target_pixel_values, caption_input_ids)
        if caption_input_ids is None and caption_attention_mask is not None:
            raise ValueError("caption_attention_mask is of captions, but caption_input_ids are missing")
        caption = None
        if caption_input_ids is not None and self.config.itc_weight > 0.0:
            caption = self._query_states(caption_input_ids, caption_attention_mask, None)
        return TripletStates(
            query=self._query_states(input_ids, attention_mask, self.encode_images(pixel_values)),
            target=self._target_states(self.encode_images(target_pixel_values)),
            caption=caption,
        )


__all__ = ["TowersModel"]
