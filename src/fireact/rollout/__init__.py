"""Running episodes: agents from names, the cache of calls, the verb ``collect`` and what it will cost."""
