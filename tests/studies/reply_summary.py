"""An evaluation of replies by hand: what evaluate_replies.py and studies.reply_heads write, small."""

from studies.reply_figures import METEOR


def figure(value):
    return {"value": value, "low": value - 0.1, "high": value + 0.1}


def control(differs):
    return {"all": figure(0.5), "fits": figure(0.9), "differs": figure(differs), "alone": None, "real_instead": figure(0.2),
            "matrix": {"asked": ["firm", "kind"], "got": ["firm", "kind", "neither"], "counts": [[3, 1, 0], [0, 2, 2]]}}


def row(base, guidance=1, candidates=1, differs=0.8, perplexity=20.0, head=0.95):
    """A row whose tones that differ were got in this share, at this perplexity; its own head says that all are right."""
    overlap = {"BLEU": {"value": 12.34, "signature": "nrefs:2"}, "chrF": {"value": 40.0, "signature": "nc:6"},
               **{name: figure(0.25) for name in ("ROUGE-1", "ROUGE-2", "ROUGE-L", METEOR)}}  # fmt: skip
    found = {"control": {"tone": control(differs), "tone_by_rule": control(differs), "category": control(0.4)},
             "agreement": {"tone_by_rule": {**figure(0.9), "kappa": 0.85}}, "intent_kept": figure(0.6), "overlap": overlap,
             "openings": {"firm": {"replies": 100, "openings": 40}, "kind": {"replies": 50, "openings": 10}},
             "distinct_2": 0.4321, "placeholders": None, "heads": {"tone": {"all": figure(head)}} if candidates else {},
             "perplexity": {"right": figure(9.0), "wrong": figure(11.0), "none": None, "written": figure(perplexity)},
             "seconds": figure(1.5), "replies": {"tones": 8}}  # fmt: skip
    return {"base": base, "guidance": guidance, "candidates": candidates, "parameters": 10, "model": {}, "figures": found}


ROWS = {"real": row("real", None, None), "token": row("token", differs=0.6), "token-g2": row("token", 2.0, differs=0.7),
        "token-n8": row("token", 1, 8, differs=0.75, head=0.99), "lora": row("lora")}  # fmt: skip
CEILING = {**figure(0.95), "macro": 0.9, "replies": 32}
SUMMARY = {"rows": ROWS, "num_requests": 2, "judges": {"ceiling": {"tone": CEILING, "tone_by_rule": CEILING, "intent": None},
                                                       "agreement": {"tone_by_rule": figure(0.8)}}}  # fmt: skip
HEADS = {"max_tokens": 96, "rows": {
    name: {"read": read, "new": {"tone": {"last": figure(0.9), "first": figure(0.3)}}, "majority": {"tone": figure(0.3)},
           "request": None, "training": {"seconds": 90}, "perplexity": {"right": figure(9.0), "none": figure(10.0)}}
    for name, read in (("token", {"tone": {"8": figure(0.5), "96": figure(0.9)}}), ("first", {}))}}  # fmt: skip
