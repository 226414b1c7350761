"""The interactive page: one HTML file, opened from disk, that shows what every pixel attends to.

`quantize` stores theta and phi in few bits, `payload` describes a block for the page, `frames` embeds pictures,
`bundle` joins the template, style and scripts in `static/`, and `save` checks the input and writes the file.
"""

from torch_nonlocal.view.page.save import Page, save_page

__all__ = ["Page", "save_page"]
