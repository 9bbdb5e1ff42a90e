"""The shell: everything that imports Ray. Sessions, units streamed through Ray Data, solver shards, trainer launch."""
