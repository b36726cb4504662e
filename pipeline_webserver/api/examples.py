"""Files small enough for an example: a picture and a tone, in base64. It must never know tasks."""

import base64
import io
import wave

# A red square of 16 x 16 pixels, a PNG file.
PICTURE = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAQCAIAAACQkWg2AAAAGklEQVR42mO8o6HBQApgYiARjGoY1TB0NAAAyVkBTB15Un8AAAAASUVORK5CYII="
)


def tone() -> str:
    """A tenth of a second at 200 Hz, 800 samples of one byte, a WAV file."""
    file = io.BytesIO()
    with wave.open(file, "wb") as recording:
        recording.setnchannels(1)
        recording.setsampwidth(1)
        recording.setframerate(8_000)
        recording.writeframes(bytes(192 if at % 40 < 20 else 64 for at in range(800)))
    return base64.b64encode(file.getvalue()).decode()
