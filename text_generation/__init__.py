"""Chat models in OpenVINO Model Server's Python nodes: prepare a model, turn prompts into text pieces."""
