"""A customer inside its running command: frames, the wire to the market, the processes beside the command."""
