"""An independent numpy implementation of the perplexity protocols P1 to P4 over a toy model.

    python scripts/reference_protocols.py            write tests/golden/protocols.json
    python scripts/reference_protocols.py --check    compute again and compare with it

The protocols, as the systems that defined them compute them (window length L counts the bos where there is one):

P1  sliding, per document (Press et al. 2021; Chen et al. 2023; the YaRN evaluator without --truncate). Windows begin at
    text positions 0, S, 2S, .. and end at the document's end at the latest; the one that reaches it is the last. The
    first scores all that it can, every later one only what no window has scored. Published average: mean over windows.
P2  truncate (the YaRN evaluator with --truncate). One window, the first L tokens; documents that are shorter are left
    out. Published average: mean over documents.
P3  stream (LongLoRA's evaluator). All documents joined, windows at 0, S, 2S, .. that lie wholly in the stream, every
    window scores all its tokens but its first, so most tokens count many times. Published average: mean over windows.
P4  the windows of P1 with a stride of the user's choice (PoSE). Published average: mean over tokens.

A perplexity is exp of an average NLL in nats, and infinity never arises: windows that score nothing do not exist.
"""

import argparse
import sys
from itertools import chain
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "golden" / "make"))
from golden_io import differences, read_json, write_json  # noqa: E402

TARGET = ROOT / "tests" / "golden" / "protocols.json"
BOS, VOCAB = 96, 97
PUBLISHED = {"P1": "windows", "P2": "documents", "P3": "windows", "P4": "tokens"}

# Text positions are counted in the document (P3: in the stream), without the bos; `end` is exclusive.
COLUMNS = ("document", "begin", "end", "first_scored", "mean_nll")

# No text, one token, two, then around one and two windows of 16 and one of 32, and one with many windows.
LENGTHS = [37, 0, 1, 16, 2, 15, 17, 31, 32, 33, 101, 30]

# protocol, L, S, bos, length-dependent toy, documents shorter than the window kept
CASES = [
    ("P1", 16, 4, False, False, True),
    ("P1", 16, 4, True, False, True),
    ("P1", 16, 5, True, False, False),
    ("P1", 16, 1, False, True, True),
    ("P1", 32, 8, True, True, True),
    ("P2", 8, None, False, False, False),
    ("P2", 16, None, False, False, False),
    ("P2", 16, None, True, False, False),
    ("P2", 32, None, True, False, False),
    ("P2", 16, None, True, True, False),
    ("P2", 32, None, True, True, False),
    ("P3", 16, 4, False, False, True),
    ("P3", 31, 7, False, False, True),
    ("P3", 32, 8, False, True, True),
    ("P4", 16, 15, False, False, True),
    ("P4", 16, 15, True, False, True),
    ("P4", 32, 10, True, True, False),
]

MODEL = {
    "vocabulary": VOCAB,
    "bos": BOS,
    "nll": "((31 t + 17 c) mod 101) / 50 + 0.5 / c, for token id t with c >= 1 tokens before it in the window, "
    "bos included",
    "nll_length_dependent": "the same plus n / 200, where n is the number of tokens in the window, bos included",
}


def toy_nll(token, context, window, length_dependent):
    """NLL in nats of `token` after `context` tokens of a window of `window` tokens."""
    assert context >= 1
    value = ((31 * token + 17 * context) % 101) / 50 + 0.5 / context
    return value + window / 200 if length_dependent else value


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare with the committed file, write nothing")
    arguments = parser.parse_args()
    made = {
        "maker": "scripts/reference_protocols.py",
        "numpy": np.__version__,
        "model": MODEL,
        "published_average": PUBLISHED,
        "documents": documents(),
        "cases": [case(*row) for row in CASES],
    }
    if not arguments.check:
        write_json(TARGET, made)
        return 0
    found = differences(read_json(TARGET), made, 1e-12)
    print("\n".join(found[:40]) if found else f"{len(CASES)} cases agree")
    return 1 if found else 0


def documents():
    """Token ids below the bos, from a generator that needs no library: x -> (1103515245 x + 12345) mod 2^31."""
    state, made = 2024, []
    for length in LENGTHS:
        tokens = []
        for _ in range(length):
            state = (1103515245 * state + 12345) % 2**31
            tokens.append((state >> 16) % BOS)
        made.append(tokens)
    return made


def case(protocol, length, stride, bos, length_dependent, keep_short):
    texts = [list(chain(*documents()))] if protocol == "P3" else documents()
    room = length - 1 if bos else length
    rows = []
    for number, text in enumerate(texts):
        if len(text) < room and not (keep_short and protocol in ("P1", "P4")):
            continue
        for begin, end, first in windows(protocol, len(text), room, stride, bos):
            if first < end:
                row = scored_window(text, begin, end, first, bos, length_dependent)
                rows.append({"document": None if protocol == "P3" else number, **row})
    return {
        "protocol": protocol,
        "length": length,
        "stride": stride,
        "bos": bos,
        "model": "nll_length_dependent" if length_dependent else "nll",
        "short_documents": "kept" if keep_short and protocol in ("P1", "P4") else "left out",
        **averages(protocol, rows),
        **(longlora(rows, len(texts[0]), length) if protocol == "P3" else {}),
        "by_context": by_context(rows),
        "window_columns": list(COLUMNS),
        "windows": [[row[key] for key in COLUMNS] for row in rows],
    }


def windows(protocol, total, room, stride, bos):
    """(begin, end, first scored) in text positions; a window without bos cannot score the token that it begins with."""
    unscored = 0 if bos else 1
    if protocol == "P2":
        return [(0, room, unscored)]
    if protocol == "P3":
        return [(begin, begin + room, begin + unscored) for begin in range(0, total - room + 1, stride)]
    made, scored_to = [], unscored
    for begin in range(0, total, stride):
        end = min(begin + room, total)
        made.append((begin, end, scored_to))
        scored_to = end
        if end == total:
            break
    return made


def scored_window(text, begin, end, first, bos, length_dependent):
    """The NLL of text[first..end] given the window from `begin` on."""
    lead = 1 if bos else 0
    size = end - begin + lead
    contexts = [position - begin + lead for position in range(first, end)]
    nll = [toy_nll(text[begin + c - lead], c, size, length_dependent) for c in contexts]
    return {"begin": begin, "end": end, "first_scored": first, "contexts": contexts, "nll": nll,
            "mean_nll": float(np.mean(nll))}


def averages(protocol, rows):
    """The three averages in use, each as NLL and as perplexity, and the counts behind them."""
    used = sorted({row["document"] for row in rows if row["document"] is not None})
    by_document = [np.mean(np.concatenate([r["nll"] for r in rows if r["document"] == d])) for d in used]
    mean_nll = {
        "tokens": float(np.mean(np.concatenate([row["nll"] for row in rows]))),
        "windows": float(np.mean([row["mean_nll"] for row in rows])),
        "documents": float(np.mean(by_document)) if used else None,
    }
    return {
        "documents_used": used,
        "window_count": len(rows),
        "tokens_scored": sum(len(row["nll"]) for row in rows),
        "mean_nll": mean_nll,
        "perplexity": float(np.exp(mean_nll["tokens"])),
        "perplexity_published": float(np.exp(mean_nll[PUBLISHED[protocol]])),
    }


def longlora(rows, total, length):
    """LongLoRA's own program also asks for a token after the window, then drops the last window that is left."""
    kept = [row for row in rows if row["begin"] + length < total][:-1]
    mean = float(np.mean([row["mean_nll"] for row in kept]))
    return {"longlora_program": {"window_count": len(kept), "perplexity": float(np.exp(mean))}}


def by_context(rows):
    """Loss by position: for each number of preceding tokens, how often it was scored and the mean NLL."""
    contexts = np.concatenate([row["contexts"] for row in rows])
    nll = np.concatenate([row["nll"] for row in rows])
    keys = sorted(set(contexts.tolist()))
    return {
        "context": keys,
        "count": [int((contexts == key).sum()) for key in keys],
        "mean_nll": [float(nll[contexts == key].mean()) for key in keys],
    }


if __name__ == "__main__":
    sys.exit(main())
