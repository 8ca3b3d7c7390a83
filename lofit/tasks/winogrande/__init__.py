"""WinoGrande: find out whom or what the blank in a sentence stands for."""
