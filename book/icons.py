"""The icons of the pages: small drawings of our own, written into the HTML.

The theme brings 1.5 MB of script for about twenty icons. Here each is one path on a grid of 16 by
16, drawn with the colour and in the size of the text around it. Screen readers skip it: the button
has the name. Templates ask for them by the theme's names.
"""

PATHS = {
    "angle-left": "M10 3 5 8l5 5",
    "angle-right": "m6 3 5 5-5 5",
    "arrow-up": "M8 13.5v-11M3.5 7 8 2.5 12.5 7",
    "bars": "M2 4h12M2 8h12M2 12h12",
    "circle-half-stroke": "M8 2a6 6 0 1 0 0 12A6 6 0 1 0 8 2zM8 2v12M8 5h5M8 8h6M8 11h5",
    "code": "M5 4 1.5 8 5 12M11 4l3.5 4-3.5 4M9 3 7 13",
    "download": "M8 2v8M4.5 6.5 8 10l3.5-3.5M2.5 13.5h11",
    "expand": "M2.5 6V2.5H6M10 2.5h3.5V6M13.5 10v3.5H10M6 13.5H2.5V10",
    "file": "M4 1.5h5L12.5 5v9.5H4zM9 1.5V5h3.5",
    "file-pdf": "M4.5 6V2h7v4M4.5 11h-2V6h11v5h-2M4.5 9h7v5h-7z",  # it prints: a printer
    "github": "M5 5.5v5M11 7.5c0 2-6 1-6 3M5 2a1.7 1.7 0 1 0 0 3.4A1.7 1.7 0 1 0 5 2z"
    "M5 10.6a1.7 1.7 0 1 0 0 3.4 1.7 1.7 0 1 0 0-3.4zM11 4a1.7 1.7 0 1 0 0 3.4A1.7 1.7 0 1 0 11 4z",
    "lightbulb": "M2 3h12v8H8.5L5 14v-3H2z",  # it opens an issue: something to say
    "list": "M6 4h8M6 8h8M6 12h8M2.5 4h.1M2.5 8h.1M2.5 12h.1",
    "logo": "m4.5 2.5 8 5.5-8 5.5z",  # of a place that runs the notebook: play
    "magnifying-glass": "M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 1 0 0-9zM10.5 10.5 14 14",
    "moon": "M13.5 9.5A6 6 0 1 1 6.5 2.5a4.8 4.8 0 0 0 7 7z",
    "rocket": "M8 1.5c2 1.5 3 3.7 3 6.2l2 2.3v2.7L10 11.5H6l-3 1.2V10l2-2.3"
    "c0-2.5 1-4.7 3-6.2zM8 6v.1M8 13v1.5",
    "sun": "M8 5.2a2.8 2.8 0 1 0 0 5.6 2.8 2.8 0 1 0 0-5.6zM8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15"
    "M3 3l1.1 1.1M11.9 11.9 13 13M3 13l1.1-1.1M11.9 4.1 13 3",
}


def icon(name):
    """The HTML of an icon. Raises KeyError for one that is not drawn here."""
    path = f'<path d="{PATHS[name]}"/>'
    return f'<svg class="book-icon" viewBox="0 0 16 16" aria-hidden="true">{path}</svg>'
