"""Formulas that several stages share: wavelength, transfer, damage, frequency grids."""
