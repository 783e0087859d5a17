"""What agents and models say to each other: dialects, tool schemas, tool calls as text, reasoning blocks, roles."""
