"""Tables with a question: from columns of texts to a model input. It must never know requests or HTTP."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.batch_plan import alone
from pipeline_webserver.inference.model_inputs import ModelInput, RawInput
from pipeline_webserver.inference.preprocessing.base import CheckedInput, Preprocessor

# The tokenizer goes through a table cell by cell, in Python.
MAX_CELLS, MAX_CHARACTERS = 4_096, 65_536
# Where the types of a token hold its column and its row; both count from 1, and 0 is outside the table.
COLUMNS, ROWS = 1, 2


class TablePreprocessor(Preprocessor):
    """Each table has a pass of its own."""

    by_shape = True
    encodes_text = False
    strategy = alone("tables come one at a time")

    def pipeline_parameters(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        cells = [cell for column in value["table"].values() for cell in column]
        characters = sum(map(len, cells)) + sum(map(len, value["table"])) + len(value["query"])
        if len(cells) > MAX_CELLS or characters > MAX_CHARACTERS:
            limit = f"the server takes {MAX_CELLS} and {MAX_CHARACTERS}"
            raise TooLarge(f"The table has {len(cells)} cells of {characters} characters; {limit}.")
        return parameters

    def model_inputs(self, checked: CheckedInput) -> Iterable[ModelInput]:
        table = pandas.DataFrame(checked.input["table"])
        (tensors,) = self.run_preprocess(checked, {"table": table, "query": checked.input["query"]})
        tokens = int(tensors["input_ids"].shape[1])
        max_tokens = self.pipe.tokenizer.model_max_length
        if tokens > max_tokens:
            raise TooLarge(f"The table has {tokens} tokens; the model takes at most {max_tokens}.")
        self._check_token_types(tensors)
        return [ModelInput(tensors, checked.forward, tokens)]

    def _check_token_types(self, tensors: Any) -> None:
        """Raises `TooLarge` for more rows or columns than the model distinguishes: past them a forward pass fails.

        Raises `Rejected` for a table without any token: the pipeline's postprocess fails on it.
        """
        sizes: list[int] = list(getattr(self.pipe.model.config, "type_vocab_sizes", ()))
        types = tensors["token_type_ids"][0].amax(dim=0).tolist() if "token_type_ids" in tensors else []
        if any(token_type >= size for token_type, size in zip(types, sizes, strict=False)):
            rows, columns = sizes[ROWS] - 1, sizes[COLUMNS] - 1
            raise TooLarge(f"The table is too large: the model takes at most {rows} rows and {columns} columns.")
        if types and not types[COLUMNS] and not types[ROWS]:
            raise Rejected("The table has no words.")

    def warmup_input(self, words: int) -> RawInput:
        rows = max(1, words // 4)
        return {"table": {"name": ["a"] * rows, "number": ["1"] * rows}, "query": "how many are there ?"}, {}
