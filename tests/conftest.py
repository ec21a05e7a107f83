import os
import sys
from pathlib import Path

# No test may reach for a model hub; what is fetched comes from the package index.
os.environ["HF_HUB_OFFLINE"] = "1"

sys.path.insert(0, str(Path(__file__).parent))
