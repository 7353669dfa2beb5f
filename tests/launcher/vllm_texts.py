"""What vLLM writes, greedily. It runs in vLLM's own environment: python vllm_texts.py CASES ANSWERS.

CASES is a JSON list. A case with ``arguments`` asks vLLM's parser what it understands by them. Any other
has a ``model``, ``options`` of ``LLM``, a folder of ``adapters``, ``prompts`` of token ids and ``batches``:
each one is a list of adapters' names, with null for the base, and every prompt is continued with each of them
in one batch.
"""

from __future__ import annotations

import json
import os
import sys
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

NEW_TOKENS = 12


def texts(case: dict[str, Any]) -> list[list[list[int]]]:
    """The new tokens of each row of each batch."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    engine = LLM(model=case["model"], dtype="float32", enforce_eager=True, **case["options"])
    names = sorted({name for batch in case["batches"] for name in batch if name})
    requests = {
        name: LoRARequest(name, number, str(Path(case["adapters"]) / name))
        for number, name in enumerate(names, start=1)
    }
    written = []
    for batch in case["batches"]:
        rows = [(prompt, name) for prompt in case["prompts"] for name in batch]
        answers = engine.generate(
            [{"prompt_token_ids": prompt} for prompt, _ in rows],
            SamplingParams(temperature=0, max_tokens=NEW_TOKENS, ignore_eos=True),
            lora_request=[requests.get(name) for _, name in rows],
            use_tqdm=False,
        )
        written.append([list(answer.outputs[0].token_ids) for answer in answers])
    return written


def understood(arguments: list[str]) -> dict[str, str]:
    """The values that ``vllm serve`` takes from its arguments."""
    from vllm.entrypoints.launchers.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    values = make_arg_parser(FlexibleArgumentParser()).parse_args(arguments)
    return {name: str(value) for name, value in vars(values).items()}


def answer(case: dict[str, Any], out: Connection) -> None:
    """Send what a case gives, or the error that it ends with."""
    try:
        out.send(understood(case["arguments"]) if "arguments" in case else texts(case))
    except (ValueError, RuntimeError, AssertionError, SystemExit) as error:
        out.send({"error": f"{type(error).__name__}: {error}"})


def main() -> None:
    """Answer all cases, each in a copy of this process, which has imported vLLM."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    import vllm  # noqa: F401

    answers = []
    for case in json.loads(Path(sys.argv[1]).read_text()):
        receiver, sender = get_context("fork").Pipe(duplex=False)
        process = get_context("fork").Process(target=answer, args=(case, sender))
        process.start()
        sender.close()
        try:
            answers.append(receiver.recv())
        except EOFError:
            answers.append({"error": "the process died"})
        process.join()
    Path(sys.argv[2]).write_text(json.dumps(answers))


if __name__ == "__main__":
    main()
