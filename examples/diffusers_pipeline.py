"""A pipeline of diffusers in few steps, and as a denoiser: `python diffusers_pipeline.py FOLDER_OR_NAME "a prompt"`.

First the pipeline itself with one of prescore's samplers; then the same network as a denoiser, whose statistics are
measured of its own samples, and which is drawn from with them. Without arguments: a tiny one with random weights.
"""

import sys

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, DiTPipeline, DiTTransformer2DModel

import prescore
from prescore.adapters.diffusers import denoiser_of, scheduler


def tiny() -> DiffusionPipeline:
    network = DiTTransformer2DModel(2, 4, 4, 8, 1, sample_size=8, patch_size=4, norm_type="ada_norm_zero")
    return DiTPipeline(
        network.eval(), AutoencoderKL(block_out_channels=(4,), norm_num_groups=2).eval(), DDIMScheduler()
    )


def main(source: str | None = None, prompt: str = "a photograph of a cat") -> torch.Tensor:
    torch.manual_seed(0)
    pipe = DiffusionPipeline.from_pretrained(source) if source else tiny()
    asked = {"prompt": prompt} if source else {"class_labels": [1]}

    own = pipe.scheduler
    pipe.scheduler = scheduler(own, "dpmpp-2m", calls=10)
    pipe(**asked).images[0].save("pipeline.png")

    pipe.scheduler = own
    model = denoiser_of(pipe, **({"prompt": prompt} if source else {"class_label": 1}))
    statistics = prescore.calibrate_model(model, n=16, sample_calls=16 * model.network_calls, trajectories=0)
    prescore.save_statistics(statistics, "latents.statistics.safetensors")

    pictures = prescore.draw(model, n=2, sampler="p-ode-3m", calls=8 * model.network_calls, statistics=statistics)
    pipe.scheduler = scheduler(own, "p-ode-3m", "latents.statistics.safetensors", calls=8)  # and for the pipeline
    pipe(**asked).images[0].save("preconditioned.png")
    return pictures


if __name__ == "__main__":
    print(main(*sys.argv[1:]).shape)
