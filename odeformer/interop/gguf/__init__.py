"""Export of a model at any depth to a GGUF file for llama.cpp. Needs the package ``gguf``.

``writing`` writes and checks the file, with ``layout`` for tensors and ``vocabulary`` for the tokenizer;
``reading`` loads a file with other libraries.
"""
