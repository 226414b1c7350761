"""The interactive page: one HTML file, opened from disk, that shows what every pixel looks at.

`quantize` brings theta and phi into few bits, `payload` describes a block for the page, `frames` embeds pictures,
`bundle` joins template, style and scripts of `static/`, `save` checks and writes.
"""

from torch_nonlocal.view.page.save import save_page

__all__ = ["save_page"]
