"""Before anything is imported: an environment without the developer's own settings, and without the real hub.

The tests of loading from a hub start processes of their own, against a stand-in.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
for name in [name for name in os.environ if name.upper().startswith("PIPELINE_")]:
    del os.environ[name]
