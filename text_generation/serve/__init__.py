"""From a model folder to answers: settings, chat, generation, engines."""
