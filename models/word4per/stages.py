"""The two stages of Word4Per's training: what they make of a batch, and the losses that compare its triplets."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

from ...checks_fafa import check_group_ids
from ...gathering_fafa import gather_rows
from .losses import cmpm_loss, id_loss, itc_loss, masked_word_errors, sdm_loss
from .masked_words import mask_words
from .towers import text_states


@dataclass
class Word4PerOutput(ModelOutput):
    """What `Word4PerModel.forward` returns; terms that do not count are None.

    Args:
        loss: scalar, the weighted sum of the terms below.
        loss_sdm: scalar, similarity-distribution matching: of image and caption in stage 1; in stage 2 of "a photo of
            *" and what supervises it, summed over TINets. Likewise `loss_itc` and `loss_cmpm`.
        loss_id: scalar, the identity loss.
        loss_mlm: scalar, masked-language modelling.
        loss_relative: scalar, of relative captions and targets: what `loss_sdm` and others are of whole captions.
        loss_composed: scalar, of composed queries and their targets, summed over TINets.
        query_embeds: `(batch_size, projection_dim)`, unit length: captions in stage 1, composed queries in stage 2, or
            while those do not train, "a photo of *".
        target_embeds: `(batch_size, 1, projection_dim)`, unit length.
    """

    loss: Tensor | None = None
    loss_sdm: Tensor | None = None
    loss_id: Tensor | None = None
    loss_mlm: Tensor | None = None
    loss_itc: Tensor | None = None
    loss_cmpm: Tensor | None = None
    loss_relative: Tensor | None = None
    loss_composed: Tensor | None = None
    query_embeds: Tensor | None = None
    target_embeds: Tensor | None = None


class ClipStates(NamedTuple):
    """What stage 1 makes of each pair of image and caption; features are not normalised.

    Args:
        image: `(batch_size, projection_dim)`, of the target; likewise `caption`, of what describes it whole.
        masked_words: `(batch_size, 2)`, see `masked_word_errors`; None without masked-language modelling.
        relative: `(batch_size, projection_dim)`, of the relative caption in its template; None where it does not count.
    """

    image: Tensor
    caption: Tensor
    masked_words: Tensor | None = None
    relative: Tensor | None = None


class TinetStates(NamedTuple):
    """What stage 2 makes of each triplet; features are not normalised.

    Args:
        prompt: `(batch_size, num_tinets, projection_dim)`, "a photo of *" with the target's pseudo-word of each TINet.
        image: `(batch_size, projection_dim)`, of the target.
        caption: `(batch_size, projection_dim)`, of what describes it whole; None where nothing is supervised by it.
        composed: `(batch_size, num_tinets, projection_dim)`, of reference image and relative caption; None where it is
            not asked for.
    """

    prompt: Tensor
    image: Tensor
    caption: Tensor | None = None
    composed: Tensor | None = None


class TwoStages:
    """How a `Word4PerModel` trains: a base class before `Retriever`."""

    @property
    def reads_target_captions(self) -> bool:
        """Stage 1 always; stage 2 where a TINet is supervised by text."""
        return self.config.stage == 1 or any(entry["supervision"] != "image" for entry in self.config.tinets)

    @property
    def reads_references(self) -> bool:
        """Stage 2 alone."""
        return self.config.stage == 2

    def warmup_settings(self, contrastive: bool, captions: bool) -> dict[str, Any]:
        """Plain contrastive learning in SDM's place, whose divergence hardly has a gradient while scores are alike."""
        return {"itc_weight": 1.0, "sdm_weight": 0.0} if contrastive else {}

    def meet_groups(self, group_ids: np.ndarray) -> None:
        """Makes a class for each identity of the training set, where the identity loss counts.

        Raises:
            ValueError: no identity occurs twice, or the classes of the model are of another training set.
        """
        if self.config.stage != 1 or not self.config.id_weight:
            return
        identities, counts = np.unique(group_ids, return_counts=True)
        if counts.max() < 2:
            raise ValueError(
                f"id_weight is {self.config.id_weight:g}, but each of the {len(identities):,} identities of the "
                "training set occurs once, so that there are none to tell apart: name the column of identities by "
                "group_column, or set id_weight to 0"
            )
        known = None if self.classifier is None else self.identities.tolist()
        if known == identities.tolist():
            return
        if hasattr(self, "peft_config") or self.get_input_embeddings().weight.is_meta:
            raise ValueError("the identity loss needs a class for each identity before adapters are added: id_weight 0")
        self.config.num_identities = len(identities)
        self._make_classifier(len(identities))
        nn.init.normal_(self.classifier.weight, std=0.001)  # released code
        nn.init.zeros_(self.classifier.bias)
        self.identities.copy_(torch.from_numpy(identities))

    def training_states(
        self,
        pixel_values: Tensor | None = None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        target_pixel_values: Tensor | None = None,
        caption_input_ids: Tensor | None = None,
        caption_attention_mask: Tensor | None = None,
        reference_features: Tensor | None = None,
        target_features: Tensor | None = None,
        caption_features: Tensor | None = None,
    ) -> ClipStates | TinetStates:
        """What the towers, or the TINets, make of each triplet by itself.

        Args:
            pixel_values: `(batch_size, 3, image_height, image_width)`, reference images; read in stage 2 alone. None: a
                pair of image and caption.
            input_ids: `(batch_size, length)`, relative captions with template and "*", read in stage 2 alone; of pairs
                the whole ones, with or without a template.
            attention_mask: `(batch_size, length)`.
            target_pixel_values: `(batch_size, 3, image_height, image_width)`.
            caption_input_ids: `(batch_size, length)`, captions that describe the targets whole.
            caption_attention_mask: `(batch_size, length)`.
            reference_features: `(batch_size, projection_dim)`, of `image_features`, in the place of images where CLIP
                is frozen; likewise `target_features`, and `caption_features` of captions.

        Raises:
            ValueError, TypeError: what the stage needs is missing, or the inputs do not fit one another or this model.
        """
        is_triplet = pixel_values is not None or reference_features is not None
        if not is_triplet and caption_input_ids is None:  # a pair, whose caption is the whole one
            caption_input_ids, caption_attention_mask, input_ids = input_ids, attention_mask, None
        if self.config.stage == 1:
            states = self._clip_states(target_pixel_values, caption_input_ids, caption_attention_mask)
            if input_ids is not None and self.config.relative_weight:
                relative = self._text_features(self._captions("input_ids", input_ids, attention_mask))
                states = states._replace(relative=relative)
            return states
        if not self.tinets or self.config.prompt_ids is None:
            raise ValueError(
                "stage 2 trains TINets on a prompt: set tinets, and prompt_ids (Word4PerProcessor.word_settings())"
            )
        names = list(self.tinets)
        if target_features is None:
            target_features = self._images("target_pixel_values", target_pixel_values)
        if caption_features is None and self.reads_target_captions:
            ids = self._captions("caption_input_ids", caption_input_ids, caption_attention_mask)
            with torch.no_grad():
                caption_features = self._text_features(self._without_template(ids))
        prompt = torch.tensor([self.config.prompt_ids], device=target_features.device).expand(len(target_features), -1)
        composed = None
        if self.config.composed_weight or (is_triplet and not self.training):
            ids = self._captions("input_ids", input_ids, attention_mask)
            if reference_features is None:
                reference_features = self._images("pixel_values", pixel_values)
            composed = self._composed_features(reference_features, ids, names)
        return TinetStates(
            self._composed_features(target_features, prompt, names), target_features, caption_features, composed
        )

    def _clip_states(self, pixel_values: Tensor, input_ids: Tensor, attention_mask: Tensor | None) -> ClipStates:
        ids = self._without_template(self._captions("caption_input_ids", input_ids, attention_mask))
        if pixel_values is None:
            raise ValueError("target_pixel_values are missing: stage 1 trains CLIP on images and their captions")
        check_pairs(pixel_values, ids)
        image, masked_words = self._image_states(pixel_values), None
        if self.cross_modal is not None:
            config, text = self.config, self.config.clip_config.text_config
            is_word = (ids == self._eos).cumsum(dim=1) == 0
            may_mask = is_word.clone()
            may_mask[:, 0] = False  # the beginning
            mask_id = text.bos_token_id - 1 if config.mask_token_id is None else config.mask_token_id
            masked, labels = mask_words(ids, may_mask, config.mlm_share, mask_id, text.vocab_size, draw=self.training)
            states = self.clip.text_projection(text_states(self.clip.text_model, masked))
            masked_words = masked_word_errors(self.cross_modal(states, image, is_word), labels)
        return ClipStates(image[:, 0], self._text_features(ids), masked_words)

    def _images(self, name: str, pixels: Tensor | None) -> Tensor:
        if pixels is None:
            raise ValueError(f"{name} are missing: stage 2 makes pseudo-words of images, or of their features")
        return self.image_features(pixels)

    def _captions(self, name: str, ids: Tensor | None, mask: Tensor | None) -> Tensor:
        if ids is None:
            raise ValueError(
                f"{name} are missing, which this stage trains on: TripletCollator(processor, with_captions=True)"
            )
        return self._checked(ids, mask, name)

    def losses(
        self,
        states: ClipStates | TinetStates,
        group_ids: Tensor | None = None,
        gather_across_processes: bool = False,
    ) -> Word4PerOutput:
        """What compares the triplets of a batch.

        Args:
            states: of `training_states`.
            group_ids: `(batch_size,)`, identities; None: every triplet its own.
            gather_across_processes: of the batches of all processes together, as one process would.

        Raises:
            ValueError, TypeError: `group_ids` are not one integer a triplet, or the identity loss has no class of one.
        """
        if group_ids is not None:
            check_group_ids(group_ids, len(states.image))
        if gather_across_processes:
            *gathered, group_ids = gather_rows(*states, group_ids)
            states = type(states)(*gathered)
        known = group_ids is not None
        if not known:
            group_ids = torch.arange(len(states.image), device=states.image.device)
        if isinstance(states, ClipStates):
            terms = self._matching(states.image, states.caption, group_ids)
            if self.config.id_weight and self.training:
                terms["loss_id"] = self._id_loss(states, group_ids if known else None)
            if states.masked_words is not None:
                errors, count = states.masked_words.sum(dim=0)
                terms["loss_mlm"] = errors / count
            if states.relative is not None:
                terms["loss_relative"] = self._weighted(self._matching(states.image, states.relative, group_ids))
            query = states.caption[:, None]
        else:
            terms = {}
            for number, entry in enumerate(self.config.tinets):
                sides = {"text": [states.caption], "image": [states.image], "both": [states.caption, states.image]}
                for side in sides[entry["supervision"]]:
                    for name, term in self._matching(side, states.prompt[:, number], group_ids).items():
                        terms[name] = terms.get(name, 0.0) + term
                if self.config.composed_weight and states.composed is not None:
                    term = itc_loss(states.image, states.composed[:, number], self.config.scale)
                    terms["loss_composed"] = terms.get("loss_composed", 0.0) + term
            query = states.prompt if states.composed is None else states.composed
        return Word4PerOutput(
            loss=self._weighted(terms),
            **terms,
            query_embeds=self._fused(query),
            target_embeds=self._normalized(states.image)[:, None],
        )

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        return sum(getattr(self.config, f"{name.removeprefix('loss_')}_weight") * term for name, term in terms.items())

    def _matching(self, image: Tensor, text: Tensor, identities: Tensor) -> dict[str, Tensor]:
        config = self.config
        terms = {}
        if config.sdm_weight:
            terms["loss_sdm"] = sdm_loss(image, text, identities, config.scale, config.same_identity)
        if config.itc_weight:
            terms["loss_itc"] = itc_loss(image, text, config.scale)
        if config.cmpm_weight:
            terms["loss_cmpm"] = cmpm_loss(image, text, identities)
        return terms

    def _id_loss(self, states: ClipStates, identities: Tensor | None) -> Tensor:
        if identities is None or self.classifier is None:
            raise ValueError(
                "the identity loss needs the identities of a batch (group_ids), and a class for each of the training "
                "set (meet_groups, which the trainer calls): give them, or set id_weight to 0"
            )
        classes = torch.searchsorted(self.identities, identities).clamp(max=len(self.identities) - 1)
        if not is_traced() and identities.device.type == "cpu" and (self.identities[classes] != identities).any():
            unknown = identities[self.identities[classes] != identities][:5].tolist()
            raise ValueError(f"identities {unknown} are none of the training set, of which the identity loss knows")
        return id_loss(self.classifier(states.image).float(), self.classifier(states.caption).float(), classes)


def check_pairs(pixel_values: Tensor, input_ids: Tensor) -> None:
    """Refuses another number of images than of captions."""
    if pixel_values.shape[0] != input_ids.shape[0]:
        raise ValueError(f"{pixel_values.shape[0]} images for {input_ids.shape[0]} captions: one of each a query")


def is_traced() -> bool:
    """Whether a graph is being made, which a look at values would break."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()
