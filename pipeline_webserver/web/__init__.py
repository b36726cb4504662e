"""Everything that knows Starlette or uvicorn. It must never know torch or transformers."""
