"""Exact match of the shipped model with its weights through each format and back, in one table.

Quantizes, dequantizes and evaluates with transformers; weights only, activations stay BF16.

  python3 models/evaluate_quantized.py build/bin/halfbyte models/arith-llama-6m --json OUT.json
"""

from __future__ import annotations

import datetime
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import transformers

from evaluate import (comparison_options, describe_device, evaluate, load_model,
                      load_tokenizer)
from problems import EVAL_SEED, evaluation_problems

FORMATS = {"bf16": None, "nvfp4": "modelopt", "mxfp4": "compressed-tensors"}


def weights_through(program: Path, model: Path, form: str, folder: Path) -> tuple[Path, dict]:
    """The model with its weights quantized and back, and the report of the quantization."""
    quantized, back = folder / form, folder / f"{form}-back"
    report = subprocess.run(
        [program, "quantize", model, quantized, "--format", form, "--json",
         "--convention", FORMATS[form]], check=True, capture_output=True, text=True).stdout
    subprocess.run([program, "dequantize", quantized, back], check=True, capture_output=True)
    return back, json.loads(report)


def main() -> None:
    options = comparison_options(__doc__.splitlines()[0])
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    problems = evaluation_problems(options.count, EVAL_SEED)
    rows = []
    with tempfile.TemporaryDirectory(prefix="halfbyte-evaluate.") as folder:
        for form in FORMATS:
            source, report = options.model, {}
            if form != "bf16":
                source, report = weights_through(options.program, options.model, form, Path(folder))
            model = load_model(source, torch.bfloat16, device)
            result = evaluate(model, load_tokenizer(options.model), problems)
            rows.append({"weights": form, "mean_sqnr_db": report.get("mean_sqnr_db"),
                         "bytes": report.get("bytes_after"), **result})
            sqnr = f"{report['mean_sqnr_db']:.2f} dB" if report else "-"
            print(f"{form}: exact match {result['correct']}/{result['n']} = "
                  f"{result['exact_match']:.3f}, answer NLL {result['answer_nll']:.5f}, SQNR {sqnr}",
                  flush=True)
    if options.json:
        document = {"schema": 1, "model": options.model.name, "device": describe_device(device),
                    "rows": rows, "command": shlex.join(["python3", *sys.argv]),
                    "date": datetime.date.today().isoformat(), "torch": torch.__version__,
                    "transformers": transformers.__version__}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
