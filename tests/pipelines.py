"""Pipelines of diffusers of every kind, with random weights and very small."""

import string

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiTPipeline,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)

SIDE = 8  # of the latents
LATENT_BETAS = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


def tokenizer():
    """Of letters and nothing else."""
    from transformers import CLIPTokenizer

    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    words = ["<|startoftext|>", "<|endoftext|>", *letters]
    return CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[], model_max_length=8)


def text_encoder(is_pooled=False):
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPTextConfig(
        vocab_size=54, max_position_embeddings=8, projection_dim=16, bos_token_id=0, eos_token_id=1, **sizes
    )
    return (CLIPTextModelWithProjection if is_pooled else CLIPTextModel)(config).eval()


def long_text_encoder():
    """Tokenizer and encoder of Stable Diffusion 3's third kind."""
    from transformers import T5Config, T5EncoderModel, T5Tokenizer

    words = ["<pad>", "</s>", "<unk>", "\u2581", *string.ascii_lowercase]
    torch.manual_seed(2)
    encoder = T5EncoderModel(T5Config(vocab_size=30, d_model=32, d_kv=8, d_ff=16, num_layers=1, num_heads=2)).eval()
    return T5Tokenizer(vocab=[(word, -float(i > 2)) for i, word in enumerate(words)], extra_ids=0), encoder


def autoencoder(**config):
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=4,
        **config,
    ).eval()


def unet(**config):
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=SIDE,
        block_out_channels=(4, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=2,
        norm_num_groups=2,
        **config,
    ).eval()


def stable_diffusion(cls=StableDiffusionPipeline):
    return cls(
        vae=autoencoder(),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(),
        unet=unet(cross_attention_dim=16),
        scheduler=DDIMScheduler(**LATENT_BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def stable_diffusion_xl(cls=StableDiffusionXLPipeline):
    network = unet(
        cross_attention_dim=32,
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=16 + 6 * 4,
        transformer_layers_per_block=1,
        use_linear_projection=True,
    )
    return cls(
        vae=autoencoder(),
        text_encoder=text_encoder(),
        text_encoder_2=text_encoder(is_pooled=True),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=network,
        scheduler=DDIMScheduler(**LATENT_BETAS, clip_sample=False, set_alpha_to_one=True, steps_offset=1),
    )


def stable_diffusion_3(cls=StableDiffusion3Pipeline, **scheduler):
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=SIDE,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=8,
        pooled_projection_dim=32,
        out_channels=4,
        pos_embed_max_size=SIDE,
    ).eval()
    tokenizer_3, text_encoder_3 = long_text_encoder()
    return cls(
        transformer=network,
        scheduler=FlowMatchEulerDiscreteScheduler(**({"shift": 3.0} | scheduler)),
        vae=autoencoder(shift_factor=0.06, scaling_factor=1.5),
        text_encoder=text_encoder(is_pooled=True),
        tokenizer=tokenizer(),
        text_encoder_2=text_encoder(is_pooled=True),
        tokenizer_2=tokenizer(),
        text_encoder_3=text_encoder_3,
        tokenizer_3=tokenizer_3,
    )


def dit():
    torch.manual_seed(0)
    network = DiTTransformer2DModel(
        sample_size=SIDE,
        num_layers=1,
        patch_size=4,
        attention_head_dim=4,
        num_attention_heads=2,
        in_channels=4,
        out_channels=8,
        norm_type="ada_norm_zero",
        norm_elementwise_affine=False,
        num_embeds_ada_norm=1000,
    ).eval()
    return DiTPipeline(network, autoencoder(), DDIMScheduler(clip_sample=False, set_alpha_to_one=True))
