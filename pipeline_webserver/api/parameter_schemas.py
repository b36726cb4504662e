"""The parameters of a task in JSON Schema, with the limits of this server and of the loaded model among them.

It must never know routes or any one task: what a parameter is allowed depends on its name and on the model alone.
"""

from pipeline_webserver.api.json_schema import INTEGER, Schema, nullable, schemas_of
from pipeline_webserver.api.parameters import GENERATION_MODEL
from pipeline_webserver.api.tasks import Task
from pipeline_webserver.model_info import EmbeddingInfo, ModelInfo

DESCRIPTIONS = {
    "targets": "Only these words are scored.",
    "top_k": "How many of the best are answered, or chosen among.",
    "function_to_apply": "The function that turns the model's logits into scores.",
    "aggregation_strategy": "How tokens are put together to entities.",
    "ignore_labels": "Labels that are left out.",
    "stride": "Tokens that neighbouring chunks of a long text share.",
    "truncate": "Whether a text that is too long is cut.",
    "normalize": "Whether the embedding is scaled to length one.",
    "prompt_name": "Which of the model's own prompts is put before the text.",
    "truncation_direction": "At which side a text is cut.",
    "dimensions": "How many of the embedding's first numbers are answered, at the length that it had.",
    "encoding_format": "How the numbers are written.",
    "candidate_labels": "The labels to choose among.",
    "hypothesis_template": "The sentence that each label is put into, at {}.",
    "multi_label": "Whether several labels may be true, each with a score of its own.",
    "do_sample": "Whether the next token is sampled, or the most probable one.",
    "max_new_tokens": "How many tokens are generated, at most.",
    "min_new_tokens": "How many tokens are generated, at least.",
    "repetition_penalty": "Over 1: tokens that are in the text already become less probable.",
    "return_full_text": "Whether the prompt is part of the answer.",
    "seed": "The same seed gives the same answer.",
    "stop": "The text ends behind the first of these.",
    "temperature": "Over 1: more surprising, under 1: less.",
    "top_p": "Only the most probable tokens, which together have this probability.",
    "typical_p": "Only the most typical tokens, which together have this probability.",
    "epsilon_cutoff": "Only tokens of at least this probability.",
    "eta_cutoff": "Only tokens of at least a probability that depends on how certain the model is.",
    "num_beams": "How many texts are tried side by side.",
    "generation_parameters": "How the text is generated.",
    "return_timestamps": "Whether the answer has the time of each part.",
    "padding": "How the table is padded.",
    "sequential": "Whether questions are answered one after the other.",
    "truncation": "Whether a table that is too long is cut.",
    "threshold": "The least probability of what is answered.",
    "mask_threshold": "The least probability of a pixel of a mask.",
    "overlap_mask_area_threshold": "How much of a mask must be left for it to be answered.",
    "subtask": "Which kind of segmentation.",
    "pool": "Whether the pooled output is answered.",
}
NOTHING = "For clients that send it: it may ask for nothing."


def parameter_schemas(task: Task, model_info: ModelInfo, max_new_tokens: int) -> dict[str, Schema]:
    """The component `Parameters`, and those it refers to, by name."""
    schemas = schemas_of(task.parameters_model)
    parameters = schemas.pop(task.parameters_model.__name__)
    _narrow_to_model(parameters, model_info)
    if model_info.generates is False:
        del parameters["properties"]["generation_parameters"], schemas[GENERATION_MODEL.__name__]
    schemas["Parameters"] = parameters
    dim = None if model_info.embedding is None else model_info.embedding.dim
    maxima = {"max_new_tokens": max_new_tokens, "stride": model_info.max_stride, "dimensions": dim}
    for schema in schemas.values():
        for name, value in schema["properties"].items():
            _set_maximum(value, maxima.get(name))
            value["description"] = DESCRIPTIONS.get(name, NOTHING)
    return schemas


def _narrow_to_model(parameters: Schema, model_info: ModelInfo) -> None:
    """Leave out, in place, what this model refuses."""
    properties = parameters["properties"]
    if "prompt_name" in properties:
        _narrow_to_embedding(properties, model_info.embedding)
    if model_info.timestamps is False:
        properties["return_timestamps"] = {"enum": [False, None]}
    if model_info.subtasks is not None:
        properties["subtask"] = {"enum": [*model_info.subtasks, None]}
    if model_info.max_top_k is not None:
        parameters |= _limit_top_k(model_info.max_top_k)
    if "stride" in properties:
        parameters |= _require_aggregation()


def _narrow_to_embedding(properties: dict[str, Schema], embedding: EmbeddingInfo | None) -> None:
    """The parameters that only a sentence-transformers configuration gives a meaning, and the prompts that it has."""
    if embedding is None:
        del properties["prompt_name"], properties["normalize"], properties["dimensions"]
    else:
        prompts = list(embedding.prompts)
        properties["prompt_name"] = nullable({"enum": prompts}) if prompts else {"type": "null"}


def _limit_top_k(maximum: int) -> Schema:
    """With targets there are no more predictions than targets."""
    limited = {"properties": {"top_k": {"maximum": maximum}}}
    return {
        "description": f"`top_k` is at most {maximum}, unless there are `targets`.",
        "anyOf": [limited, {"properties": {"targets": {"type": "array"}}, "required": ["targets"]}],
    }


def _require_aggregation() -> Schema:
    """The chunks of a text are put together by its entities only."""
    both = {"aggregation_strategy": {"const": "none"}, "stride": INTEGER}
    return {
        "description": "`stride` needs an `aggregation_strategy`, not `none`.",
        "not": {"properties": both, "required": list(both)},
    }


def _set_maximum(schema: Schema, maximum: int | None) -> None:
    for one in schema.get("anyOf", [schema]):
        if maximum is not None and one.get("type") == "integer":
            one["maximum"] = maximum
