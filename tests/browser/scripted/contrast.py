"""The contrast of the page's texts over what is really behind them, by pixels."""

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import Page

# Every visible text below the selector: its words, its box, and its colour with all opacities.
FIND_TEXTS = """(selector) => {
    const texts = [];
    const add = (element, words, rects) => {
        const style = getComputedStyle(element);
        let opacity = 1;
        for (let one = element; one !== null; one = one.parentElement) {
            opacity *= Number(getComputedStyle(one).opacity);
        }
        for (const { left, top, width, height } of rects) {
            if (width < 2 || height < 2) continue;
            texts.push({ words, left, top, width, height, color: style.color, opacity });
        }
    };
    for (const root of document.querySelectorAll(selector)) {
        if (!root.checkVisibility({ visibilityProperty: true })) continue;
        const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            const { parentElement: parent, data } = walker.currentNode;
            if (data.trim() === "" || parent.closest(":disabled, option")) continue;
            if (parent.closest(".visually-hidden") || !parent.checkVisibility()) continue;
            const range = document.createRange();
            range.selectNodeContents(walker.currentNode);
            add(parent, data.trim(), range.getClientRects());
        }
        for (const field of root.querySelectorAll("input[type=text]")) {
            const { left, top, width, height } = field.getBoundingClientRect();
            add(field, field.value, [
                { left: left + 12, top: top + 8, width: width - 24, height: height - 16 },
            ]);
        }
    }
    return texts;
}"""
HIDE_TEXTS = "* { color: transparent !important; transition: none !important; }"


def texts_with_contrast(page: Page, selector: str) -> list[tuple[str, float]]:
    """Each text below the selector, and its lowest contrast with a pixel behind it."""
    texts: list[dict[str, Any]] = page.evaluate(FIND_TEXTS, selector)
    style = page.add_style_tag(content=HIDE_TEXTS)
    screen = np.asarray(Image.open(io.BytesIO(page.screenshot())).convert("RGB"), np.float64)
    style.evaluate("element => element.remove()")
    return [
        (text["words"], lowest_contrast(behind, text))
        for text in texts
        if (behind := pixels_behind(screen, text)).size > 0  # else it is scrolled out of the screen
    ]


def pixels_behind(screen: NDArray[np.float64], text: dict[str, Any]) -> NDArray[np.float64]:
    """The pixels [N, 3] of the text's box."""
    left, top = max(0, int(text["left"])), max(0, int(text["top"]))
    right, bottom = int(text["left"] + text["width"]), int(text["top"] + text["height"])
    return screen[top : max(0, bottom), left : max(0, right)].reshape(-1, 3)


def lowest_contrast(behind: NDArray[np.float64], text: dict[str, Any]) -> float:
    red, green, blue, *alpha = parse_color(text["color"])
    opacity = text["opacity"] * (alpha[0] if alpha else 1.0)
    color = opacity * np.array([red, green, blue]) + (1 - opacity) * behind
    one, other = luminance(color), luminance(behind)
    ratio = (np.maximum(one, other) + 0.05) / (np.minimum(one, other) + 0.05)
    return round(float(ratio.min()), 2)


def parse_color(color: str) -> list[float]:
    """The numbers of a computed "rgb(…)" or "rgba(…)"."""
    return [float(part) for part in color[color.index("(") + 1 : -1].split(",")]


def luminance(color: NDArray[np.float64]) -> NDArray[np.float64]:
    """The relative luminance of WCAG 2 of colours [N, 3] from 0 to 255."""
    share = color / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    weights: NDArray[np.float64] = np.array([0.2126, 0.7152, 0.0722])
    return np.asarray(linear @ weights, np.float64)
