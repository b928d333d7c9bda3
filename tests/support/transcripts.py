"""Transcripts in documents: where they are, and what of them differs from run to run."""
import re

BLOCK = re.compile(r"(```console\n)(.*?)(```\n)", re.DOTALL)


def settled(text: str) -> list[str]:
    """Lines without what differs from run to run."""
    text = re.sub(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d[.,]\d+(Z|\+00:00)?", "TIME", text)
    text = re.sub(r"(\d+ (ms|s|min|h|d) )+ago|now\)", "AGE", text)
    text = re.sub(r"[\d.]+ (ns|us|ms|s) later", "LATER", text)
    text = re.sub(r"held up for [\d.]+ (us|ms|s)", "held up for PAUSE", text)
    text = re.sub(r"process \d+", "process PID", text)
    text = re.sub(r"[\d.]+ sec \([^)]*\)", "SPEED", text)
    text = re.sub(r'"(ts_ns|asked_ts_ns|created_ns)": ?\d+', r'"\1": NS', text)
    text = re.sub(r"(?m)^  levels off .*\n", "", text)      # said of a history that is old enough, on a slow machine
    # What the engine makes of it may change without a word on the page being wrong.
    text = re.sub(r"(?m)^  (log|index|segments|frames|read|base|images|catalog|reserve|other|history|growth|device|"
                  r"full|limit met|freed|next run) .*", r"  \1 N", text)
    text = re.sub(r"(?m): [\d.]+ \w+ on the device$", ": N on the device", text)
    text = re.sub(r"with [\d.]+ \w+ of log", "with N of log", text)
    text = re.sub(r"\d+(\.\d)? [KM]?i?B +(?=\d+$)", "N ", text, flags=re.MULTILINE)
    return [re.sub(r"  +", "  ", line).rstrip() for line in text.splitlines()]
