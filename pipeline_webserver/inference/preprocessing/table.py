"""Tables with a question: from the JSON form's columns to a row for the model. It must never know requests or HTTP."""

from collections.abc import Iterable, Mapping
from typing import Any

import pandas

from pipeline_webserver.errors import Rejected, TooLarge
from pipeline_webserver.inference.forward import Row
from pipeline_webserver.inference.preprocessing.base import Draft, Preparation, Work

# Its tokenizer goes cell by cell, in Python.
MOST_CELLS, MOST_CHARACTERS = 4_096, 65_536
# Where each token's column and row stand among its types; they count from 1, and 0 is no part of the table.
COLUMNS, ROWS = 1, 2


class TablePreparation(Preparation):
    """Each table has a pass of its own."""

    by_shape = True
    why_alone = "tables come one at a time"

    def given(self, value: Any, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        cells = [cell for column in value["table"].values() for cell in column]
        characters = sum(map(len, cells)) + sum(map(len, value["table"])) + len(value["query"])
        if len(cells) > MOST_CELLS or characters > MOST_CHARACTERS:
            most = f"the server takes {MOST_CELLS} and {MOST_CHARACTERS}"
            raise TooLarge(f"The table has {len(cells)} cells of {characters} characters; {most}.")
        return parameters

    def rows(self, draft: Draft) -> Iterable[Row]:
        table = pandas.DataFrame(draft.input["table"])
        (inputs,) = self.made(draft, {"table": table, "query": draft.input["query"]})
        tokens = int(inputs["input_ids"].shape[1])
        most = self.pipe.tokenizer.model_max_length
        if tokens > most:
            raise TooLarge(f"The table has {tokens} tokens; the model takes at most {most}.")
        self._check_places(inputs)
        return [Row(inputs, draft.forward, tokens)]

    def _check_places(self, inputs: Any) -> None:
        """Raises `TooLarge` for more rows or columns than the model can tell apart: past them a forward pass fails.

        Raises `Rejected` for a table in which there is no token at all: the pipeline's postprocess fails on it.
        """
        sizes: list[int] = list(getattr(self.pipe.model.config, "type_vocab_sizes", ()))
        places = inputs["token_type_ids"][0].amax(dim=0).tolist() if "token_type_ids" in inputs else []
        if any(place >= size for place, size in zip(places, sizes, strict=False)):
            rows, columns = sizes[ROWS] - 1, sizes[COLUMNS] - 1
            raise TooLarge(f"The table is too large: the model takes at most {rows} rows and {columns} columns.")
        if places and not places[COLUMNS] and not places[ROWS]:
            raise Rejected("The table has no words.")

    def sample(self, words: int) -> Work:
        rows = max(1, words // 4)
        return {"table": {"name": ["a"] * rows, "number": ["1"] * rows}, "query": "how many are there ?"}, {}
