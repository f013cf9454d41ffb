"""What is far outside in samples of the shipped models: the figures that the thresholds of `prescore.examine` rest on.

    python benchmarks/doubtful.py

For each model, sampler and number of calls: share of values beyond the range by a tenth of its width, and the least and
largest energy of a band beside the data's, of 16 samples; a cross where `prescore.draw` would warn.
"""

import argparse
import warnings

import prescore
from prescore.errors import PrescoreError
from prescore.examine import Examination

MODELS = ("mnist-ve", "mnist-edm", "natural-edm", "emoji-ve", "topography-edm", "mnist-ncsn")
RUNS = (("auto", 5), ("auto", 8), ("dpmpp-2m", 5), ("dpmpp-2m", 10), ("unipc", 5), ("edm-heun", 9), ("ddim", 20))
RUNS += (("pds", 20), ("pc", 20), ("pc", 100))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--n", type=int, default=16)
    options = parser.parse_args()
    print("| model | sampler | calls | outside | least energy | largest | warns |\n|-|-|-|-|-|-|-|")
    for name in options.models:
        model = prescore.load(name)
        for sampler, calls in RUNS:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    plan = prescore.plan(model, sampler=sampler, calls=calls)
                    x = plan.sample(range(options.n), progress=False)
            except PrescoreError as error:
                print(f"| {name} | {sampler} | {calls} | {error} | | | |", flush=True)
                continue
            found = Examination(model.data_range, plan.statistics)
            found.add(x)
            energies = [energy for energy in found.energies() if energy != 1.0] or [1.0]
            share = found.outside / max(found.numbers, 1)
            row = f"{share:.4f} | {min(energies):.3g} | {max(energies):.3g} | {'x' if found.doubts else ''}"
            print(f"| {name} | {sampler} | {calls} | {row} |", flush=True)


if __name__ == "__main__":
    main()
