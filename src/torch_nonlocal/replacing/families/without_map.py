"""Relatives of the non-local operation whose own code builds no N x M map, by the names of their classes."""

WITHOUT_MAP = {
    "BatNonLocalAttn": "its bilinear attention transform builds no N x M map",
    "ContextBlock": "all its queries have the same weights, so it builds no N x M map",
    "CrissCrossAttention": "it attends along rows and columns only, and builds no N x M map",
    "SpatialCGNL": "its compact form builds no N x M map",
    "SpatialCGNLx": "its compact form builds no N x M map",
}
