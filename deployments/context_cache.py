"""Encoded prompts within a byte budget; the least recently used ones go first."""

from collections import OrderedDict

from deployments.encoded_prompt import EncodedPrompt


class ContextCache:
    """Contexts by cleaned prompt. A context over the whole budget is not kept."""

    def __init__(self, *, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._entries: OrderedDict[str, EncodedPrompt] = OrderedDict()
        self.num_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, text: str) -> EncodedPrompt | None:
        """The entry, which becomes the most recently used one."""
        if text in self._entries:
            self._entries.move_to_end(text)
        return self._entries.get(text)

    def put(self, text: str, encoded: EncodedPrompt) -> None:
        """Keep an entry, and drop as many old ones as it needs room for."""
        if text in self._entries:
            self.num_bytes -= self._entries.pop(text).context.nbytes
        size = encoded.context.nbytes
        if size > self._budget_bytes:
            return
        while self.num_bytes + size > self._budget_bytes:
            _, oldest = self._entries.popitem(last=False)
            self.num_bytes -= oldest.context.nbytes
        self._entries[text] = encoded
        self.num_bytes += size
