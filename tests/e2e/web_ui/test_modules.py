"""Functions of the web UI by themselves, all called in one round trip to a browser."""

from collections.abc import Iterator
from typing import Any

import pytest

from pipeline_webserver.api.error_table import ERROR_TABLE
from pipeline_webserver.api.tasks import TASKS
from pipeline_webserver.errors import NotServed
from tests.support.browser import Open, Visit

TIMES = "\N{MULTIPLICATION SIGN}"
BUCKETS = [{"upTo": 0.1, "count": 0}, {"upTo": 0.2, "count": 10}, {"upTo": 1, "count": 20}]
# A module `m`, what is done with it, the values `given`, and the result.
CASES: list[tuple[str, str, list[Any], Any]] = [
    ("format.js", "return given.map(m.percent)", [0.5561, 1, 0, 0.0004], ["55.6 %", "100.0 %", "0.0 %", "< 0.1 %"]),
    ("format.js", "return given.map((ms) => m.duration(ms))", [0.4213, 12.345, 999.7], ["0.421 ms", "12.3 ms", "1 s"]),
    ("chart.js", "return given.map(m.roundUp)", [0, 0.3, 1, 17, 60], [1, 0.5, 1, 20, 100]),
    ("chart.js", "return m.pathOf(given, 4)", [2, None, 4], "M236.0 30.0h0M240.0 0.0h0"),
    (
        "api.js",
        "return m.parseTiming(given[0])",
        ['queue;dur=1.25, model;dur=30.00, total;dur=32.50, batch;desc="7"'],
        {"queue": 1.25, "model": 30, "total": 32.5, "batch": 7},
    ),
    ("api.js", "return m.parseTiming(null)", [], {}),
    (
        "exposition.js",
        r"return m.parse('# HELP a b\na{x=\"1,\\\"}\",le=\"+Inf\"} 2e3\nb 5 17\n')",
        [],
        [
            {"name": "a", "labels": {"x": '1,"}', "le": "+Inf"}, "value": 2000},
            {"name": "b", "labels": {}, "value": 5},
        ],
    ),
    (
        "exposition.js",
        "return [0.25, 0.5, 0.9].map((share) => m.quantile(share, given))",
        BUCKETS,
        [pytest.approx(0.15), pytest.approx(0.2), pytest.approx(0.84)],
    ),
    ("exposition.js", "return m.quantile(0.5, [{upTo: 1, count: 0}, {upTo: Infinity, count: 3}])", [], 1),
    ("exposition.js", "return m.quantile(0.5, [{upTo: 1, count: 0}])", [], None),
    (
        "exposition.js",
        """const scrape = (n, sum) => m.parse([`pipeline_request_seconds_count{route="/"} ${n}`,
               `pipeline_batch_size_count ${n}`, `pipeline_batch_size_sum ${sum}`,
               'pipeline_inputs_in_flight 3'].join('\\n'));
           return m.rates(scrape(10, 40), scrape(30, 140), 2)""",
        [],
        {"requestsPerSecond": 10, "p50Ms": None, "p99Ms": None, "batchSize": 5, "inputsInFlight": 3},
    ),
    (
        # Nine refusals at once beside one answer on each route, of which one takes long.
        "exposition.js",
        """const series = (route, status, counts) => [['0.1', counts[0]], ['1.0', counts[1]], ['+Inf', counts[1]]]
               .map(([le, n]) => `pipeline_request_seconds_bucket{le="${le}",route="${route}",status="${status}"} ${n}`)
               .concat(`pipeline_request_seconds_count{route="${route}",status="${status}"} ${counts[1]}`);
           const after = [...series('/', 200, [1, 1]), ...series('/', 503, [9, 9]), ...series('/info', 200, [5, 5]),
               ...series('/v1/embeddings', 200, [0, 1])];
           const { requestsPerSecond, p50Ms, p99Ms } = m.rates([], m.parse(after.join('\\n')), 1);
           return { requestsPerSecond, p50Ms, p99Ms }""",
        [],
        {"requestsPerSecond": 11, "p50Ms": pytest.approx(100), "p99Ms": pytest.approx(982)},
    ),
    ("burst.js", "return m.chunks(given, 3)", [1, 2, 3, 4], [[1, 2, 3], [4]]),
    (
        "burst.js",
        "return m.numbered(given[0], 'text', 2)",
        [{"text": "a", "n": 1}],
        [{"text": "a 1", "n": 1}, {"text": "a 2", "n": 1}],
    ),
    (
        "entities.js",
        "return m.spans('🙂ab c', [{start: 1, end: 3}, {start: 2, end: 4}]).map((part) => [part.text, !!part.entity])",
        [],
        [["🙂", False], ["ab", True], [" c", False]],
    ),
    (
        "vectors.js",
        "return [m.shapeOf(given), m.rowsOf(given).length, m.norm([3, 4])]",
        [[[1, 2], [3, 4]]],
        [[1, 2, 2], 2, 5],
    ),
    ("vectors.js", "return [1, -1, 0].map(m.colorOf)", [], [[255, 130, 0], [0, 110, 255], [255, 255, 255]]),
    ("predictions.js", "return m.byMask(given)", [{"score": 1}], [[{"score": 1}]]),
    ("calls.js", "return m.toBase64(new Blob([new Uint8Array(100000)]))", [], "A" * 133334 + "=="),
    (
        "fields.js",
        """const field = m.textField('Text');
           return given.map((text) => { field.write(text); return field.problem(); })""",
        ["", " ", "a"],
        ["Enter a text first.", "Enter a text first.", ""],
    ),
    ("fields.js", "return m.labelsField().problem()", [], "Enter at least one label."),
    (
        "fields.js",
        """const field = m.numberField('New tokens', 20);
           return given.map((number) => { field.write(number); return [field.read(), field.problem()]; })""",
        [0, 5, 100],
        [[0, "New tokens: enter a whole number from 1."], [5, ""], [20, ""]],
    ),
    ("file_field.js", "return m.fileField('image').problem()", [], "Choose a file first."),
    ("table_field.js", "return m.tableField().problem()", [], "Name at least one column of the table."),
    (
        "table_field.js",
        "const field = m.tableField(); field.write(given[0]); return [field.read(), field.problem()]",
        [{"city": ["Paris"], "people": ["2"]}],
        [{"city": ["Paris"], "people": ["2"]}, ""],
    ),
    ("tasks.js", "return Object.keys(m.TASKS)", [], list(TASKS)),
    (
        "tasks.js",
        """const task = m.taskOf('a-new-task');
           const examples = task.examples({}).map(({ title }) => title);
           return [Object.keys(task.fields({})), examples, task.call({ text: 'a' }), task.varied,
                   task.render({}).node.textContent]""",
        [],
        [["text"], ["A text to try."], {"inputs": "a", "method": None}, "text", "The answer is below, as JSON."],
    ),
    (
        "api.js",
        "return given.map((error) => new m.RequestError(...error).sentences)",
        [
            ["deadline_exceeded", "There was no answer in time; the server is slow or busy."],
            ["rejected", "The text is empty."],
            ["overloaded", "There are 9 inputs.", 503, 2],
        ],
        [
            ["There was no answer in time; the server is slow or busy."],
            ["The model cannot process this input.", "The text is empty."],
            ["The server is at capacity.", "There are 9 inputs.", "Try again in 2 s."],
        ],
    ),
    (
        "burst_view.js",
        """const form = document.createElement('div');
           form.innerHTML = '<p>One.</p><p>Two.</p>';
           const failures = () => given.map((sentences) => m.failure({ sentences }, form));
           return [failures(), (form.hidden = true) && failures()]""",
        [["One.", "Three."], ["One.", "Two."]],
        [["Three.", "The burst failed with the same error as the form."], ["One. Three.", "One. Two."]],
    ),
    (
        "model_card.js",
        "return given.map(m.maxInput)",
        [
            {"max_tokens": 512},
            {"max_tokens": 512, "embedding": {"max_tokens": 256}},
            {"max_tokens": 512, "embedding": {"max_tokens": None}},
            {"max_tokens": None, "embedding": {"max_tokens": 128}},
            {"max_tokens": 512, "limits": {"truncate": True}},
            {"max_tokens": None, "limits": {"truncate": True}},
        ],
        [
            "512 tokens",
            "256 tokens, then cut",
            "512 tokens, then cut",
            "128 tokens, then cut",
            "512 tokens, then cut",
            None,
        ],
    ),
    (
        "model_card.js",
        "return given.map((factor) => m.gain('alone', factor).textContent)",
        [0.8, 0.994, 0.996, 1.5],
        [f"0.80 {TIMES} alone: slower", f"0.99 {TIMES} alone: slower", f"1.00 {TIMES} alone", f"1.50 {TIMES} alone"],
    ),
    ("timing.js", "return m.partsOf({queue: 1, model: 30, total: 32.5})", [], {"queue": 1, "model": 30, "other": 1.5}),
    (
        "timing.js",
        "return m.timingParts({queue: 1, model: 30, total: 32.5, batch: 7}, 40).map((part) => part.textContent)",
        [],
        [
            "32.5 ms in the server, in a batch of 7; 40 ms measured in the browser.",
            "",
            "queue 1 msmodel 30 msother 1.5 ms",
        ],
    ),
    (
        "preview.js",
        "return given.map(([kind, name, type]) => m.whyUnreadable(kind, new File([], name, { type })))",
        [["audio", "a.png", "image/png"], ["audio", "a.wav", "audio/wav"], ["image", "a.raw", ""]],
        [
            "a.png is not audio, but image/png.",
            "This browser cannot play a.wav; the server may still read it.",
            "This browser cannot show a.raw; the server may still read it.",
        ],
    ),
    ("similarity.js", "return m.cosine(...given)", [[3, 4], [4, 3]], pytest.approx(0.96)),
    ("similarity.js", "return [m.cosine([1, 0], [-2, 0]), m.cosine([0, 0], [1, 1])]", [], [-1, 0]),
    ("similarity.js", "return m.mean(given)", [[1, 2], [3, 6]], [2, 4]),
    (
        "tasks.js",
        """const task = m.taskOf('feature-extraction');
           const calls = [task.call({ ...given[0], ...task.inBurst }, {}), task.call(given[0], {}),
               task.call(given[0], { embedding: {} })];
           return calls.map(({ inputs, method }) => [inputs, method?.positional])""",
        [{"text": "a", "second": "b"}],
        [["a", ["a"]], [["a", "b"], None], [["a", "b"], [["a", "b"]]]],
    ),
    (
        "prose.js",
        "return m.prose(given[0]).map((node) => node.outerHTML ?? node)",
        ["`Bearer` or `a <b>`."],
        ["<code>Bearer</code>", " or ", "<code>a &lt;b&gt;</code>", "."],
    ),
    (
        "prose.js",
        "return given.map(m.literalOf)",
        [r"\[MASK\]", "<mask>", r"a.b", r"\d", "(a|b)"],
        ["[MASK]", "<mask>", None, None, None],
    ),
    (
        "schema_view.js",
        "return given.map((schema) => m.summary(schema).map((node) => node.textContent ?? node).join(''))",
        [
            {"type": "string", "pattern": r"\[MASK\]"},
            {"type": "string", "pattern": "^a+$", "minLength": 1},
            {"type": "string", "pattern": "^[A-Za-z]*$", "contentEncoding": "base64"},
        ],
        ["string (with [MASK])", "string (length ≥ 1, like ^a+$)", "string (base64)"],
    ),
    (
        "answers.js",
        "return given.map(m.readable).concat(m.readable('x'.repeat(40007)).slice(39998))",
        ['{"a":[1]}', "# HELP"],
        ['{\n  "a": [\n    1\n  ]\n}', "# HELP", "xx\n… truncated: 7 more characters"],
    ),
    (
        "api.js",
        "return Object.keys(m.EXPLANATIONS).sort()",
        [],
        sorted(facts.error_type for error, facts in ERROR_TABLE.items() if error is not NotServed),
    ),
]  # fmt: skip


@pytest.fixture(scope="module")
def page(open_visit: Open, fake_url: str) -> Iterator[Visit]:
    """A page to call functions in."""
    opened = open_visit().go(fake_url)
    yield opened
    opened.close()


def test_each_function_has_its_result(page: Visit) -> None:
    results = page.call_all([(module, body, given) for module, body, given, _ in CASES])
    wrong = [
        f"{module}: {body}\n  gives {result}\n  not   {expected}"
        for (module, body, _, expected), result in zip(CASES, results, strict=True)
        if result != expected
    ]
    assert not wrong, "\n".join(wrong)


DRAWING = "const { drawing } = await import(new URL('static/file_field.js', location.href));"


def test_boxes_lie_where_the_answer_says(page: Visit) -> None:
    body = f"""{DRAWING}
        const {{ node }} = await m.boxes(given, await drawing());
        const rect = node.querySelector('rect');
        return ['x', 'y', 'width', 'height'].map((name) => rect.getAttribute(name))
            .concat(node.querySelector('svg').getAttribute('viewBox'), node.querySelector('.legend').textContent);"""
    detected = {"label": "barn", "score": 0.9, "box": {"xmin": 60, "ymin": 70, "xmax": 140, "ymax": 155}}
    assert page.call("overlays.js", body, detected) == ["60", "70", "80", "85", "0 0 320 200", "barn 90.0 %"]


def test_masks_lie_where_the_answer_says(page: Visit) -> None:
    body = f"""{DRAWING}
        const canvas = new OffscreenCanvas(320, 200);
        const context = canvas.getContext('2d');
        context.fillRect(0, 0, 320, 200);
        context.fillStyle = 'white';
        context.fillRect(0, 0, 160, 200);
        const {{ toBase64 }} = await import(new URL('static/calls.js', location.href));
        const mask = await toBase64(await canvas.convertToBlob());
        const scores = {{ left: {{ score: null }}, none: {{}}, half: {{ score: 0.5 }} }};
        const segments = Object.entries(scores).map(([label, score]) => ({{ label, mask, ...score }}));
        const {{ node }} = await m.masks(segments, await drawing());
        const layer = node.querySelector('canvas + canvas').getContext('2d');
        return [layer.getImageData(10, 10, 1, 1).data[3], layer.getImageData(310, 10, 1, 1).data[3],
            ...Array.from(node.querySelectorAll('.legend li'), (item) => item.textContent)];"""
    assert page.call("overlays.js", body) == [140, 0, "left", "none", "half 50.0 %"]
