"""Any depth as a GGUF file for llama.cpp and what is built on it. Needs the package ``gguf``.

``layout`` knows how llama.cpp names and lays out the layers, ``vocabulary`` what it must know of a
tokenizer; ``writing`` writes the file and compares, ``reading`` has it loaded by others.
"""
