"""What a person types and sees. Commands import what they need when they run: `sawyer --help` starts at once."""
