"""The model as a dynamical system along its depth."""
