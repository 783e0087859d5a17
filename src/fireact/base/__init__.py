"""What any program needs: files, run directories, names, progress, the machine, secrets; nothing of agents."""
