"""What others continue with: a session's output folder as a RELION job, for cryoSPARC, denoisers and tomography."""
