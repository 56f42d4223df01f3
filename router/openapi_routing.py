"""What each field of `routing` says, for /openapi.json."""

ROUTING = {
    "model": "The model that embedded the texts.",
    "tier": "The tier that this model stands for.",
    "reason": "Why this model: pinned, tier, rule:NAME, auto, quality, context, unavailable, "
    "budget, load or late.",
    "space": "MODEL/DIMENSIONS: only vectors of the same space may be compared.",
    "language": "ISO 639-1 code of the texts, null where it is not known.",
    "tokens": "What the model read, prompts and special tokens included.",
    "predicted_ms": "What the router expected the answer to take.",
    "degraded": "The model has fewer points of quality for this text than the target; where the "
    "config gives no figure, it is smaller.",
    "languages": "Texts by language, for a list of several texts.",
    "unread": "Share of the texts' tokens that the model does not know, where there are any.",
    "cached": "How many of the vectors were known already.",
    "truncated": "Indices of the inputs that were cut.",
    "canary": "Decided by the rules that are being tried, not by the usual ones.",
    "adapter": "The adapter that the vectors came over from another model's space, and the share "
    "of recall that it keeps.",
    "encoder": "Why this model may make vectors of the space: native (its own), same (the same "
    "weights elsewhere), adapter or student.",
    "expected_recall": "Share of the recall@10 of the best search that these queries keep, as "
    "measured; null where the model is native.",
}
