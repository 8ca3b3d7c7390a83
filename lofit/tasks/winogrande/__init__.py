"""WinoGrande: whom or what does the blank in a sentence stand for?"""
