"""Tiny diffusers pipelines with random weights, saved to disk so that the real loaders read them.

They paint coloured noise in a fraction of a second, and every real code path runs. The FLUX ones paint pictures whose
sides are multiples of 4 pixels (64 x 32 in the tests), the Stable Diffusion ones multiples of 8.
"""

import string
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

# CLIP's unknown token is its end token: every character must be known, within a word and at its end.
CORPUS = [f"{c} a{c} {c}a" for c in string.printable if not c.isspace()] + ["two photographs of the same person"]


def tiny_flux(folder: Path, guidance_embeds: bool = True, seed: int = 0) -> Path:
    """A FluxPipeline in `folder`; `guidance_embeds` as in FLUX.1-dev, without as in schnell."""
    torch.manual_seed(seed)
    tokenizer, text_encoder = _clip_text()
    tokenizer_2 = T5Tokenizer(extra_ids=0, model_max_length=512).train_new_from_iterator(CORPUS, vocab_size=300)
    text_encoder_2 = T5EncoderModel(
        T5Config(vocab_size=len(tokenizer_2), d_model=32, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    )
    transformer = FluxTransformer2DModel(
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=32,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=guidance_embeds,
    )
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=guidance_embeds),
        vae=_vae(use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.1, scaling_factor=0.4),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        text_encoder_2=text_encoder_2,
        tokenizer_2=tokenizer_2,
        transformer=transformer,
    )
    pipeline.save_pretrained(folder)
    return Path(folder)


def tiny_kontext(folder: Path, flux: Path) -> Path:
    """A FluxKontextPipeline, which edits, from the components of a tiny FluxPipeline saved in `flux`."""
    FluxKontextPipeline(**FluxPipeline.from_pretrained(flux).components).save_pretrained(folder)
    return Path(folder)


def tiny_adapter(folder: Path, pipeline: Path, rank: int = 4, alpha: int = 8, seed: int = 1) -> Path:
    """A LoRA for the tiny pipeline in the folder `pipeline`, saved as diffusers saves one, alpha included.

    It changes the denoiser, and the text encoder of Stable Diffusion. Its weights are large, to be seen in a picture.
    """
    loaded = DiffusionPipeline.from_pretrained(pipeline)
    names = ["transformer"] if hasattr(loaded, "transformer") else ["unet", "text_encoder"]
    modules = {name: getattr(loaded, name) for name in names}
    generator = torch.Generator().manual_seed(seed)
    layers = {}
    for name, module in modules.items():
        targets = ["q_proj", "v_proj"] if name == "text_encoder" else ["to_k", "to_q", "to_v", "to_out.0"]
        module.add_adapter(LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets, init_lora_weights=False))
        for parameter_name, parameter in module.named_parameters():
            if "lora_" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.3, generator=generator)
        layers[f"{name}_lora_layers"] = get_peft_model_state_dict(module)
    loaded.save_lora_weights(folder, **layers, **_collate_lora_metadata(modules))
    return Path(folder)


def tiny_stable_diffusion(folder: Path, unsafe: bool = False, seed: int = 0) -> Path:
    """A StableDiffusionPipeline; with `unsafe` its safety checker finds every picture unsafe."""
    pipeline = StableDiffusionPipeline(
        **_stable_diffusion(latents=4, seed=seed),
        safety_checker=_safety_checker(unsafe),
        feature_extractor=CLIPImageProcessor(size={"shortest_edge": 30}, crop_size={"height": 30, "width": 30}),
    )
    pipeline.save_pretrained(folder)
    return Path(folder)


def tiny_instruct_pix2pix(folder: Path, seed: int = 0) -> Path:
    """A StableDiffusionInstructPix2PixPipeline, which edits, without a safety checker."""
    pipeline = StableDiffusionInstructPix2PixPipeline(
        **_stable_diffusion(latents=8, seed=seed),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder)
    return Path(folder)


def _clip_text() -> tuple[CLIPTokenizer, CLIPTextModel]:
    tokenizer = CLIPTokenizer(model_max_length=77).train_new_from_iterator(CORPUS, vocab_size=600)
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        projection_dim=32,
        intermediate_size=37,
        num_attention_heads=4,
        num_hidden_layers=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return tokenizer, CLIPTextModel(config)


def _vae(**options) -> AutoencoderKL:
    """Halves the sides once; 4 latent channels."""
    return AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        layers_per_block=1,
        norm_num_groups=4,
        sample_size=32,
        **options,
    )


def _stable_diffusion(latents: int, seed: int) -> dict:
    torch.manual_seed(seed)
    tokenizer, text_encoder = _clip_text()
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=4,
        attention_head_dim=2,
        cross_attention_dim=32,
        sample_size=16,
        in_channels=latents,
    )
    return {
        "vae": _vae(),
        "text_encoder": text_encoder,
        "tokenizer": tokenizer,
        "unet": unet,
        "scheduler": DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    }


def _safety_checker(unsafe: bool) -> StableDiffusionSafetyChecker:
    config = CLIPConfig(
        text_config={"hidden_size": 8},
        vision_config={
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_attention_heads": 2,
            "num_hidden_layers": 1,
            "image_size": 30,
            "patch_size": 15,
        },
        projection_dim=8,
    )
    checker = StableDiffusionSafetyChecker(config)
    # A picture is unsafe where its similarity to a concept exceeds that concept's weight.
    torch.nn.init.constant_(checker.concept_embeds_weights, -2.0 if unsafe else 2.0)
    torch.nn.init.constant_(checker.special_care_embeds_weights, 2.0)
    return checker
