"""The page's pictures of exemplars."""

import base64
import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mnemonics_tf.errors import counted
from mnemonics_tf.reporting.charts import escape
from mnemonics_tf.reporting.gallery import Card, Gallery, difference, gallery
from mnemonics_tf.reporting.groups import Group

#: longest side of a picture in the page, in pixels; larger images are shrunk
_SIDE = 96
#: classes that are in sight before a reader asks for more
_OPEN = 12


def galleries(groups: Sequence[Group]) -> str:
    """Returns exemplars of each group by class, as HTML; what has none is named.

    Raises:
        UserError: if files of a run are damaged.
    """
    parts, without = [], []
    for group in groups:
        shown = gallery(group)
        if shown is None:
            without.append(group.name)
        else:
            parts.append(_gallery(group, shown))
    if without:
        parts.append(
            f"<p>Not shown: {escape('; '.join(without))}. Exemplars are seen in run directories "
            "that still hold them, not in a results.json alone, and where no codec of the run's "
            "own stores them.</p>"
        )
    return "".join(parts)


def _gallery(group: Group, shown: Gallery) -> str:
    cards = [_card(card, shown) for card in shown.cards]
    more = len(cards) - _OPEN
    if more > 1:
        rest = f'<div class="cards">{"".join(cards[_OPEN:])}</div>'
        unfolded = f"<details><summary>{more} more classes</summary>{rest}</details>"
        cards = cards[:_OPEN]
    else:
        unfolded = ""
    return (
        f"<h3>{escape(group.name)}, seed {escape(shown.seed)}</h3><p>{escape(_told(shown))}</p>"
        f'<div class="cards">{"".join(cards)}</div>{unfolded}'
    )


def _told(shown: Gallery) -> str:
    """Returns what is seen, and what is left out."""
    count = max(len(card.now) for card in shown.cards)
    parts = []
    if shown.any_moved:
        start = "the training image that learning began with"
        if not shown.starts_known:
            start = "as first stored (the run keeps nothing earlier)"
        times = f", {shown.amplification} times as strong" if shown.amplification > 1 else ""
        parts.append(
            f"Start: {start}. Now: as stored after the last phase. Difference: now minus start "
            f"around middle grey{times}. Moved: root mean square over the pixels in grey levels "
            "of 255; in brackets the largest of a single value."
        )
        moved = np.concatenate([card.moved for card in shown.cards])
        parts.append(f"On average those shown moved by {moved.mean():.1f} grey levels.")
    elif shown.starts_known:
        parts.append("Training images, as they are stored: none of them has changed.")
    else:
        parts.append("As first stored: none has changed since. The run keeps nothing earlier.")
    if len(shown.cards) < shown.num_classes or count < shown.num_exemplars:
        parts.append(
            f"Shown: {len(shown.cards)} of {shown.num_classes} classes, of each {count} of "
            f"{counted(shown.num_exemplars, 'exemplar')}."
        )
    return " ".join(parts)


def _card(card: Card, shown: Gallery) -> str:
    if not shown.any_moved:
        images = "".join(_image(image, f"Exemplar of {card.name}") for image in card.now)
        content = f'<div class="row">{images}</div>'
    else:
        rows = zip(
            *(card.start, card.now, difference(card, shown.amplification)),
            *(card.moved, card.farthest),
            strict=True,
        )
        content = (
            '<div class="moves"><span>start</span><span>now</span><span>difference</span>'
            "<span>moved</span>"
        )
        for start, now, apart, moved, farthest in rows:
            content += _image(start, f"Exemplar of {card.name}, start")
            content += _image(now, "now") + _image(apart, "difference")
            content += f"<span>{moved:.1f} <small>({int(farthest)})</small></span>"
        content += "</div>"
    return f"<figure><figcaption>{escape(card.name)}</figcaption>{content}</figure>"


def _image(image: np.ndarray, text: str) -> str:
    """Returns an image as an element that holds its own data.

    Args:
        image: uint8 `[h, w, c]`.
        text: for those who don't see it.
    """
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((_SIDE, _SIDE))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    contents = base64.b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/png;base64,{contents}" alt="{escape(text)}">'
