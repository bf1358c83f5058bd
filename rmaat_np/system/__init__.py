"""What every command needs of the machine: files, the terminal, memory and cores, pictures."""
