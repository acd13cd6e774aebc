"""Beyond the paper: options of ``NearestClasses`` that are off unless asked for."""
