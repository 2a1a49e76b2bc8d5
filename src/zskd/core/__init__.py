"""What every room needs: errors, types, random numbers, files, processes, progress."""
