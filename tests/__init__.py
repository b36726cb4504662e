"""Before anything is imported: no test asks the real hub. Those of loading from a hub start processes of their own."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
