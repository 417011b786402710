"""Both roles' prompts: rendering, the teacher's privileged context, and a problem set's builder."""
